//! `ringlog config`: the keys there are, and what topics and brokers have set.

use clap::{Args as ClapArgs, Subcommand};

use super::client::{Client, Connect};
use super::configs::{self, Resource};
use super::failure::Failure;
use super::{cluster, output};
use crate::config::{CatalogueRow, catalogue};

#[derive(ClapArgs)]
pub struct Args {
    /// Print every key there is, with type, default, range and what it does; asks no broker
    #[arg(long)]
    list: bool,
    /// With --list: only the keys in whose name this is
    #[arg(value_name = "PART", requires = "list")]
    filter: Option<String>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    connect: Connect,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Show the configs of a topic or a broker
    Describe {
        #[command(flatten)]
        of: Of,
        /// Only what was changed while running
        #[arg(long)]
        changed: bool,
        /// With what each config does, in JSON
        #[arg(long)]
        doc: bool,
    },
    /// Change the configs of a topic or a broker
    Alter {
        #[command(flatten)]
        of: Of,
        /// Set a value; may be repeated
        #[arg(long = "config", visible_alias = "set", value_name = "KEY=VALUE", value_parser = configs::parse_pair)]
        set: Vec<(String, String)>,
        /// Go back to the inherited value; may be repeated
        #[arg(long = "delete-config", value_name = "KEY")]
        delete: Vec<String>,
        /// Only check
        #[arg(long)]
        validate_only: bool,
    },
}

#[derive(ClapArgs)]
#[group(required = true, multiple = false)]
struct Of {
    /// The configs of this topic
    #[arg(long)]
    topic: Option<String>,
    /// The configs of the broker of this id, or `default` for those of all brokers
    #[arg(long, value_name = "ID")]
    broker: Option<String>,
}

impl Of {
    fn resource(self) -> Result<Resource, Failure> {
        match (self.topic, self.broker.as_deref()) {
            (Some(topic), _) => Ok(Resource::Topic(topic)),
            (None, Some("default")) => Ok(Resource::Broker(None)),
            (None, Some(id)) => {
                let id = id.parse().map_err(|_| Failure::usage(format!("`{id}` is no broker id")))?;
                Ok(Resource::Broker(Some(id)))
            }
            (None, None) => Err(Failure::usage("give --topic or --broker")),
        }
    }
}

pub fn run(args: Args) -> Result<(), Failure> {
    let Some(command) = args.command else {
        if !args.list {
            return Err(Failure::usage("say what: --list, describe or alter (--help tells more)"));
        }
        return list(args.filter.as_deref().unwrap_or_default(), args.json);
    };
    let mut client = Client::new(&args.connect);
    match command {
        Command::Describe { of, changed, doc } => {
            let resource = of.resource()?;
            cluster::learn_brokers(&mut client)?;
            let mut entries = configs::describe(&mut client, &resource, doc)?;
            entries.retain(|entry| !changed || entry.is_own());
            configs::print(&entries, args.json)
        }
        Command::Alter { of, set, delete, validate_only } => {
            let resource = of.resource()?;
            cluster::learn_brokers(&mut client)?;
            configs::alter(&mut client, &resource, &set, &delete, validate_only)?;
            let done = if validate_only { "would be changed" } else { "changed" };
            output::done(args.json, &format!("{resource} {done}"))
        }
    }
}

fn list(part: &str, json: bool) -> Result<(), Failure> {
    let rows: Vec<CatalogueRow> = catalogue().into_iter().filter(|row| row.name.contains(part)).collect();
    if rows.is_empty() {
        return Err(Failure::not_found(format!("no key has `{part}` in its name")));
    }
    if json {
        return output::print_json(&rows);
    }
    let mut text = String::new();
    for row in &rows {
        let default = row.default.map_or("none", |default| if default.is_empty() { "\"\"" } else { default });
        let accepted = if row.accepted.is_empty() { "any" } else { &row.accepted };
        text.push_str(&format!(
            "{} ({})\n    type {}, default {default}, accepted: {accepted}, {}\n",
            row.name,
            row.scope,
            row.value_type.to_lowercase(),
            row.update,
        ));
        if !row.synonyms.is_empty() {
            text.push_str(&format!("    default from {}\n", row.synonyms.join(", ")));
        }
        text.push_str(&format!("    {}\n", row.doc));
    }
    output::print(&text)
}
