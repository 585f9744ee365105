//! The identity of log directories: `meta.properties` in each, in Kafka's form, with the cluster's id, the node's, and the
//! directory's own. A directory of another cluster or node is refused.

use std::path::{Path, PathBuf};

use crate::config::parse_properties;
use crate::protocol::Uuid;

/// A log directory that is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogDirectory {
    pub path: PathBuf,
    /// Zero when it could not be read.
    pub id: Uuid,
    /// Why it cannot be used, if so.
    pub error: Option<String>,
}

pub(super) const META_PROPERTIES: &str = "meta.properties";

/// What `meta.properties` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct MetaProperties {
    pub cluster_id: Option<String>,
    pub node_id: Option<i32>,
    pub directory_id: Option<Uuid>,
}

impl MetaProperties {
    /// Says in words what is wrong with the text.
    pub fn parse(text: &str) -> Result<MetaProperties, String> {
        let properties =
            parse_properties(text).map_err(|malformed| format!("line {} is malformed", malformed.line))?;
        let mut meta = MetaProperties::default();
        for property in properties {
            let value = property.value.trim();
            match property.key.as_str() {
                "version" if value == "0" || value == "1" => {}
                "version" => return Err(format!("version {value} is not known, only 0 and 1 are")),
                "cluster.id" => meta.cluster_id = Some(value.to_owned()),
                "node.id" | "broker.id" => {
                    let id = value.parse().map_err(|_| format!("{} is no number: {value}", property.key))?;
                    meta.node_id = Some(id);
                }
                "directory.id" => {
                    let id = value.parse().map_err(|error| format!("directory.id {value}: {error}"))?;
                    meta.directory_id = Some(id);
                }
                _ => {}
            }
        }
        Ok(meta)
    }

    pub fn to_text(&self) -> String {
        let mut text = "#\nversion=1\n".to_owned();
        let mut line = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                text.push_str(&format!("{key}={value}\n"));
            }
        };
        line("cluster.id", self.cluster_id.clone());
        line("node.id", self.node_id.map(|id| id.to_string()));
        line("directory.id", self.directory_id.map(|id| id.to_string()));
        text
    }

    /// Whether the directory may belong to this cluster and node.
    pub fn check(&self, path: &Path, cluster_id: &str, node_id: i32) -> Result<(), String> {
        let path = path.join(META_PROPERTIES);
        let path = path.display();
        match (self.cluster_id.as_deref(), self.node_id) {
            (Some(other), _) if other != cluster_id => {
                Err(format!("{path} says cluster.id={other}, but this is cluster {cluster_id}"))
            }
            (_, Some(other)) if other != node_id => {
                Err(format!("{path} says node.id={other}, but this is node {node_id}"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kafkas_file() {
        let text = "#\n#Tue Jun 02 14:38:40 UTC 2026\ncluster.id=P_8cK-lKTLmNBFhD5PvtXg\ndirectory.id=AAAAAAAAAAAAAAAAAAAAZQ\nnode.id=1\nversion=1\n";
        let meta = MetaProperties::parse(text).unwrap();
        assert_eq!(meta.cluster_id.as_deref(), Some("P_8cK-lKTLmNBFhD5PvtXg"));
        assert_eq!((meta.node_id, meta.directory_id.map(|id| id.0[15])), (Some(1), Some(101)));
        assert_eq!(MetaProperties::parse(&meta.to_text()), Ok(meta.clone()));
        let dir = Path::new("/d");
        assert_eq!(meta.check(dir, "P_8cK-lKTLmNBFhD5PvtXg", 1), Ok(()));
        assert_eq!(
            meta.check(dir, "P_8cK-lKTLmNBFhD5PvtXg", 2),
            Err("/d/meta.properties says node.id=1, but this is node 2".to_owned())
        );
        assert!(meta.check(dir, "other", 1).is_err());
        for wrong in ["version=2", "node.id=x", "directory.id=x", "a=\\u1"] {
            assert!(MetaProperties::parse(wrong).is_err(), "{wrong}");
        }
    }
}
