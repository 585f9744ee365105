//! The build script: turns `schema/*.schema` into `$OUT_DIR/messages.rs` and `$OUT_DIR/api_key.rs`.
//!
//! Not a module of the crate. `generate/schema.rs` reads the notation, `generate/emit.rs` writes the code.

#[path = "generate/emit.rs"]
mod emit;
#[path = "generate/schema.rs"]
mod schema;

use std::path::{Path, PathBuf};
use std::process::exit;

fn main() {
    println!("cargo:rerun-if-changed=src/protocol/generate.rs");
    println!("cargo:rerun-if-changed=src/protocol/generate");
    println!("cargo:rerun-if-changed=src/protocol/schema");
    if let Err(error) = generate() {
        eprintln!("src/protocol/generate.rs: {error}");
        exit(1);
    }
}

fn generate() -> Result<(), String> {
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    let messages = schema::load(Path::new("src/protocol/schema"))?;
    let write = |name: &str, text: String| std::fs::write(out.join(name), text).map_err(|e| e.to_string());
    write("messages.rs", emit::messages(&messages)?)?;
    write("api_key.rs", emit::api_key(&messages))
}
