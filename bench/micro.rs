//! Times the cases of `bench/cases.rs`: `cargo bench --bench micro [NAME]`. `--names` prints them, `--count NAME N` runs one N times
//! and nothing else, to count its instructions. Under `cargo test` each runs once.

mod cases;

use std::hint::black_box;

use criterion::Criterion;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["--names", ..] => cases::CASES.iter().for_each(|(name, _)| println!("{name}")),
        ["--count", name, count, ..] => {
            let (_, prepare) = cases::CASES.iter().find(|(it, _)| it == name).expect("a case of that name");
            let mut run = prepare();
            (0..count.parse::<u64>().expect("a number")).for_each(|_| black_box(&mut run)());
        }
        _ => {
            let mut criterion = Criterion::default().configure_from_args();
            for (name, prepare) in cases::CASES {
                let mut run = prepare();
                criterion.bench_function(name, |bencher| bencher.iter(&mut run));
            }
            criterion.final_summary();
        }
    }
}
