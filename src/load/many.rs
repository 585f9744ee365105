//! Several runs as one: the search for the highest rate, a latency curve, repetitions. Decides nothing itself about rates
//! ([`super::search`], [`super::curve`]); makes the runs one after the other, each with a topic of its own, and puts what they
//! say into one document.

use serde::Serialize;

use super::args::Args;
use super::engine::{self, Finished};
use super::machine::Machine;
use super::options::{Options, Outputs, Pace, SECOND_NS};
use super::recorder::Series;
use super::report::{Asked, Report, RunVerdict};
use super::search::{Found, Search, Step};
use super::{html, table};

/// What the runs are for.
enum Plan {
    Search(SearchPlan),
    Curve,
    Repeat,
}

struct SearchPlan {
    objectives: Vec<super::objective::Objective>,
    precision: f64,
    confirm: u32,
}

/// A document of several runs.
#[derive(Clone, Debug, Serialize)]
pub struct Document {
    /// `search`, `curve` or `runs`.
    pub kind: &'static str,
    pub ringlog_version: &'static str,
    pub started_ms: i64,
    pub verdict: RunVerdict,
    pub reasons: Vec<String>,
    /// Of the first run; the others differ in rate, topic and run alone.
    pub asked: Asked,
    pub machine: Machine,
    /// Records a second of the closed loop, where rates were derived from it.
    pub closed_loop_records_per_second: Option<f64>,
    pub search: Option<Searched>,
    pub runs: Vec<Report>,
}

/// A search and its outcome.
#[derive(Clone, Debug, Serialize)]
pub struct Searched {
    pub objectives: Vec<String>,
    pub precision: f64,
    #[serde(flatten)]
    pub found: Found,
    /// What failed at the lowest rate that did: `latency`, `throughput`, or `generator`, which says nothing of the broker.
    pub limited_by: Option<&'static str>,
    /// By run, in the order of `runs`.
    pub trials: Vec<Trial>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Trial {
    pub records_per_second: f64,
    pub confirming: bool,
    pub held: bool,
    /// Why it did not hold; as [`Searched::limited_by`].
    pub limited_by: Option<&'static str>,
    /// What was seen of each objective, or why it did not hold.
    pub seen: Vec<String>,
}

/// Whether a trial held, why not, and what was seen.
struct Judged {
    limited_by: Option<&'static str>,
    seen: Vec<String>,
}

/// Runs what the arguments ask for, if it is more than one run.
pub fn run(args: &Args, options: &Options) -> Option<Result<RunVerdict, String>> {
    let plan = if !args.search.is_empty() {
        Plan::Search(SearchPlan {
            objectives: args.search.clone(),
            precision: args.search_precision / 100.0,
            confirm: args.search_confirm,
        })
    } else if args.curve.is_some() {
        Plan::Curve
    } else if args.repeat != 1 {
        Plan::Repeat
    } else {
        return None;
    };
    Some(execute(args, options, &plan))
}

fn execute(args: &Args, options: &Options, plan: &Plan) -> Result<RunVerdict, String> {
    check(args, options)?;
    options.outputs.check()?;
    let mut runs = Runs { options, made: Vec::new(), total: None };
    let (kind, search, reached) = match plan {
        Plan::Search(plan) => {
            let reached = runs.closed_loop()?;
            ("search", Some(search(plan, &mut runs, reached)?), Some(reached))
        }
        Plan::Curve => ("curve", None, curve(args, &mut runs)?),
        Plan::Repeat => {
            runs.total = Some(args.repeat as usize);
            for _ in 0..args.repeat {
                runs.make(options.pace.clone())?;
            }
            ("runs", None, None)
        }
    };
    let document = Document::new(kind, search, reached, runs.made)?;
    if let Some(path) = &options.outputs.csv {
        Outputs::write(path, table::csv_many(&document).as_bytes())?;
    }
    let page = || html::document_page(&document);
    options.outputs.finish(&document, &table::render_many(&document), page)?;
    Ok(document.verdict)
}

fn check(args: &Args, options: &Options) -> Result<(), String> {
    if options.producers == 0 {
        return Err("several runs need producers".into());
    }
    if options.outputs.hdr.is_some() {
        return Err("--hdr is for a single run".into());
    }
    if !(0.5..=50.0).contains(&args.search_precision) {
        return Err("--search-precision is from 0.5 to 50 percent".into());
    }
    if !(1..=100).contains(&args.search_confirm) || !(1..=1000).contains(&args.repeat) {
        return Err("--search-confirm is from 1 to 100, --repeat from 1 to 1000".into());
    }
    let reads = args.search.iter().any(|objective| objective.series == Series::EndToEnd);
    if reads && options.consumers == 0 {
        return Err("an objective of e2e needs consumers".into());
    }
    if !args.search.is_empty() && options.acks == super::options::Acks::None && !reads {
        return Err("with acks=0 nothing is acknowledged: an objective has to be one of e2e".into());
    }
    Ok(())
}

/// The runs made so far.
struct Runs<'o> {
    options: &'o Options,
    made: Vec<Report>,
    total: Option<usize>,
}

impl Runs<'_> {
    /// Makes one run and keeps its report.
    fn make(&mut self, pace: Pace) -> Result<Finished, String> {
        let finished = self.run_alone(pace)?;
        self.made.push(finished.report.clone());
        let of = self.total.map_or(String::new(), |total| format!(" of {total}"));
        self.tell(&format!("run {}{of}: {}", self.made.len(), table::line(&finished.report)));
        Ok(finished)
    }

    fn run_alone(&self, pace: Pace) -> Result<Finished, String> {
        let outputs = Outputs { quiet: true, ..Outputs::default() };
        engine::run(&Options { pace, outputs, ..self.options.clone() })
    }

    /// Records a second that the closed loop reaches: the first guess, and what percentages are of.
    fn closed_loop(&self) -> Result<f64, String> {
        let report = self.run_alone(Pace::Max)?.report;
        let flow = report.produced.as_ref().map(|it| &it.flow);
        // Of a broker so slow that nothing came within a short measured time, what came at all is a guess as well.
        let at_all = flow.map_or(0.0, |it| it.records as f64 / report.measured_seconds.max(1.0));
        let reached = flow.map_or(0.0, |it| it.records_per_second).max(at_all.min(1.0));
        self.tell(&format!("closed loop: {}", table::line(&report)));
        match report.verdict {
            RunVerdict::Failed => Err(format!("the closed loop failed: {}", report.reasons.join("; "))),
            _ if reached <= 0.0 => Err("in the closed loop no record was acknowledged".into()),
            _ => Ok(reached),
        }
    }

    /// The pace of the options, at another rate.
    fn pace_at(&self, rate: f64) -> Pace {
        match &self.options.pace {
            Pace::Open(arrivals) => Pace::Open(arrivals.at_rate(rate)),
            Pace::Max => Pace::Max,
        }
    }

    fn tell(&self, text: &str) {
        if !self.options.outputs.quiet {
            eprintln!("{text}");
        }
    }
}

fn curve(args: &Args, runs: &mut Runs<'_>) -> Result<Option<f64>, String> {
    let Some(points) = &args.curve else { return Ok(None) };
    let reached = if points.is_relative() { Some(runs.closed_loop()?) } else { None };
    let rates = points.rates(args.record_size, reached.unwrap_or(0.0));
    runs.total = Some(rates.len() * args.repeat as usize);
    for round in 0..args.repeat {
        // Up and down in turn, so that a slow minute of the machine does not always meet the same rate.
        let order: Vec<f64> =
            if round % 2 == 0 { rates.clone() } else { rates.iter().rev().copied().collect() };
        for rate in order {
            runs.make(runs.pace_at(rate))?;
        }
    }
    Ok(reached)
}

fn search(plan: &SearchPlan, runs: &mut Runs<'_>, reached: f64) -> Result<Searched, String> {
    // A closed loop reaches more than an open one holds: most searches begin a little below it.
    let mut search = Search::new(reached * 0.8, plan.precision, plan.confirm);
    let mut trials = Vec::new();
    while let Step::Try { rate, confirming } = search.next() {
        let finished = runs.make(runs.pace_at(rate))?;
        if finished.report.verdict == RunVerdict::Failed {
            // Lost or corrupt records: no rate of such a broker is worth naming.
            let seen = finished.report.reasons;
            trials.push(Trial { records_per_second: rate, confirming, held: false, limited_by: None, seen });
            break;
        }
        let Judged { limited_by, seen } = match judge(plan, &finished) {
            Ok(judged) => judged,
            Err(why) if trials.is_empty() => return Err(why),
            // Far below the first guess too few records come in the time to say anything.
            Err(why) => Judged { limited_by: Some("latency"), seen: vec![why] },
        };
        let held = limited_by.is_none();
        runs.tell(&format!("  {}: {}", if held { "held" } else { "failed" }, seen.join("; ")));
        search.outcome(held);
        trials.push(Trial { records_per_second: rate, confirming, held, limited_by, seen });
    }
    let found = search.found();
    let at_limit = |trial: &&Trial| Some(trial.records_per_second) == found.fails_at_records_per_second;
    Ok(Searched {
        objectives: plan.objectives.iter().map(ToString::to_string).collect(),
        precision: plan.precision,
        limited_by: trials.iter().rev().filter(at_limit).find_map(|trial| trial.limited_by),
        found,
        trials,
    })
}

fn judge(plan: &SearchPlan, finished: &Finished) -> Result<Judged, String> {
    let report = &finished.report;
    if report.verdict == RunVerdict::Invalid {
        return Ok(Judged { limited_by: Some("generator"), seen: report.reasons.clone() });
    }
    if report.sustained == Some(false) {
        let seen = vec!["the offered rate was not reached".into()];
        return Ok(Judged { limited_by: Some("throughput"), seen });
    }
    let mut judged = Judged { limited_by: None, seen: Vec::new() };
    for objective in &plan.objectives {
        let (ns, held) = objective
            .judge(&finished.latencies)
            .map_err(|why| format!("{why}: a longer --duration or another percentile is needed"))?;
        if !held {
            judged.limited_by = Some("latency");
        }
        judged.seen.push(format!("{objective}: {:.3} ms", ns as f64 / 1e6));
    }
    Ok(judged)
}

impl Document {
    fn new(
        kind: &'static str,
        search: Option<Searched>,
        reached: Option<f64>,
        runs: Vec<Report>,
    ) -> Result<Document, String> {
        let first = runs.first().ok_or("no run was made")?;
        let mut verdict = RunVerdict::Ok;
        let mut reasons = Vec::new();
        for (at, report) in runs.iter().enumerate() {
            // A search goes to where the generator or the broker cannot follow: that is an answer, not a fault.
            let counts = match report.verdict {
                RunVerdict::Ok => false,
                RunVerdict::Failed => true,
                RunVerdict::Invalid => search.is_none(),
            };
            if counts {
                verdict = if verdict == RunVerdict::Failed { verdict } else { report.verdict };
                reasons.push(format!("run {}: {}", at + 1, report.reasons.join("; ")));
            }
        }
        if search.as_ref().is_some_and(|it| it.found.records_per_second.is_none())
            && verdict == RunVerdict::Ok
        {
            verdict = RunVerdict::Failed;
            reasons.push("no rate held the objectives".into());
        }
        Ok(Document {
            kind,
            ringlog_version: env!("CARGO_PKG_VERSION"),
            started_ms: first.started_ms,
            verdict,
            reasons,
            asked: first.asked.clone(),
            machine: first.machine.clone(),
            closed_loop_records_per_second: reached,
            search,
            runs,
        })
    }

    /// The run whose seconds are worth showing: the last one at the rate that was found, or the last.
    pub fn shown_run(&self) -> Option<&Report> {
        let found = self.search.as_ref().and_then(|it| it.found.records_per_second);
        let at_rate = |report: &&Report| report.asked.records_per_second == found;
        self.runs.iter().rev().find(at_rate).or(self.runs.last())
    }

    pub fn shown_title(&self, report: &Report) -> String {
        match report.asked.records_per_second {
            Some(rate) => format!("A run at {rate:.0} records/s"),
            None => format!(
                "The last run, {} s",
                self.asked.warmup_ns / SECOND_NS + report.measured_seconds as u64
            ),
        }
    }
}
