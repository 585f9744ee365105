//! The pages in `tuning/`: one an item and an index, made of the table, so that neither can say what the other does not.
//! `RINGLOG_REWRITE=1 cargo test --lib tune::` writes them anew.

use super::{ITEMS, Item, Scope};

/// The page of an item.
pub fn page(item: &Item) -> String {
    let whose = match item.scope {
        Scope::Host => "the host's: set it there, not in a container",
        Scope::Process => "the broker's process or directories",
    };
    format!(
        "# {}\n\n`ringlog tune check --only {}`; a setting of {whose}.\n\n**What.** {}\n\n**Why.** {}\n\n**Undo.** {}\n\n\
         **Measured effect.** {}\n",
        item.title, item.name, item.what, item.why, item.undo, item.effect
    )
}

pub fn index() -> String {
    let mut text = String::from(
        "# Tuning the host\n\nWhat a host should be set to for a broker, one item a page. The pages are made of the table that \
         `ringlog tune` works by (`src/tune/items.rs`).\n\n    \
         ringlog tune check --dir /var/lib/ringlog     # looks, changes nothing, needs no privilege\n    \
         ringlog tune plan --dir /var/lib/ringlog      # what would be changed, as a difference\n    \
         ringlog tune apply --dir /var/lib/ringlog     # changes it, and keeps the old values; as root\n    \
         ringlog tune undo                             # puts the old values back\n    \
         ringlog tune measure --dir /var/lib/ringlog   # what the disk can do\n\n\
         Changes last until the host starts again. In a container what belongs to the host is shown and left alone.\n\n\
         | item | what it wants |\n| --- | --- |\n",
    );
    for item in ITEMS {
        text.push_str(&format!("| [{}]({}.md) | {} |\n", item.title, item.name, item.what));
    }
    text
}
