//! `ringlog completions`: what a shell needs to complete our words.

use clap::ValueEnum;
use clap_complete::Shell as Generator;

use super::failure::Failure;
use super::output;

#[derive(clap::Args)]
pub struct Args {
    /// The shell; for bash: `source <(ringlog completions bash)`
    shell: Shell,
}

#[derive(Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

pub fn run(args: Args, mut command: clap::Command) -> Result<(), Failure> {
    let generator = match args.shell {
        Shell::Bash => Generator::Bash,
        Shell::Zsh => Generator::Zsh,
        Shell::Fish => Generator::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(generator, &mut command, "ringlog", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}
