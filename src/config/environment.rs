//! Names of environment variables, as the usual container images take them: `KAFKA_LOG_DIRS` is `log.dirs`, `KAFKA_CFG_LOG_DIRS` as
//! well, `RINGLOG_SHARDS` is `ringlog.shards`; `__` stands for an underscore, `___` for a dash.

/// The key that a variable sets, or `None` when it is about something else.
pub fn key_of(variable: &str) -> Option<String> {
    match variable {
        "CLUSTER_ID" | "KAFKA_CLUSTER_ID" | "KAFKA_KRAFT_CLUSTER_ID" => {
            return Some("ringlog.cluster.id".to_owned());
        }
        "KAFKA_CREATE_TOPICS" => return Some("ringlog.create.topics".to_owned()),
        _ => {}
    }
    if let Some(rest) = variable.strip_prefix("RINGLOG_") {
        // RINGLOG_LOG sets the level of the log output, which is not configuration of the broker.
        return (rest != "LOG").then(|| format!("ringlog.{}", dotted(rest)));
    }
    let rest = variable.strip_prefix("KAFKA_")?;
    if !is_about_the_image(rest) {
        return Some(dotted(rest.strip_prefix("CFG_").unwrap_or(rest)));
    }
    None
}

/// Settings of the JVM and of the images' start scripts, and the variables that Kubernetes makes for a service named kafka.
fn is_about_the_image(rest: &str) -> bool {
    const NAMES: &[&str] = &[
        "OPTS",
        "HEAP_OPTS",
        "GC_LOG_OPTS",
        "JVM_PERFORMANCE_OPTS",
        "HOME",
        "VERSION",
        "USER",
        "GROUP",
        "PORT",
    ];
    const PREFIXES: &[&str] =
        &["LOG4J", "JMX_", "PORT_", "SERVICE_", "DEBUG", "KRAFT_", "ADVERTISED_HOST", "VOLUME"];
    NAMES.contains(&rest) || PREFIXES.iter().any(|prefix| rest.starts_with(prefix))
}

fn dotted(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    let mut out = String::with_capacity(name.len());
    let mut underscores = 0;
    for c in name.chars().chain(std::iter::once('\0')) {
        if c == '_' {
            underscores += 1;
            continue;
        }
        match underscores {
            0 => {}
            1 => out.push('.'),
            2 => out.push('_'),
            3 => out.push('-'),
            more => out.extend(std::iter::repeat_n('_', more)),
        }
        underscores = 0;
        if c != '\0' {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (variable, key) in [
            ("KAFKA_LOG_DIRS", Some("log.dirs")),
            ("KAFKA_CFG_LOG_DIRS", Some("log.dirs")),
            ("KAFKA_NODE_ID", Some("node.id")),
            ("KAFKA_LOG_RETENTION_MS", Some("log.retention.ms")),
            ("KAFKA_A__B___C", Some("a_b-c")),
            ("RINGLOG_SHARDS", Some("ringlog.shards")),
            ("RINGLOG_ACK_LEVEL_ALL", Some("ringlog.ack.level.all")),
            ("RINGLOG_LOG", None),
            ("KAFKA_CREATE_TOPICS", Some("ringlog.create.topics")),
            ("CLUSTER_ID", Some("ringlog.cluster.id")),
            ("KAFKA_HEAP_OPTS", None),
            ("KAFKA_LOG4J_ROOT_LOGLEVEL", None),
            ("KAFKA_PORT_9092_TCP_ADDR", None),
            ("KAFKA_SERVICE_HOST", None),
            ("PATH", None),
        ] {
            assert_eq!(key_of(variable).as_deref(), key, "{variable}");
        }
    }
}
