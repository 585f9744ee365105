//! Families of samples, as they are before a format is chosen: [`text`](super::text), [`protobuf`](super::protobuf) or
//! [`otlp`](crate::control::otlp).

use std::borrow::Cow;

use crate::metrics::HistogramValues;

/// What kind of value a family holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Summary,
    Histogram,
}

/// A name and a value of a label.
pub type Label<'a> = (&'static str, &'a str);

/// All families, in the order in which they were opened.
#[derive(Default)]
pub struct Page {
    pub families: Vec<Family>,
}

pub struct Family {
    pub name: String,
    pub help: &'static str,
    pub kind: Kind,
    pub samples: Vec<Sample>,
}

pub struct Sample {
    pub labels: Vec<(Cow<'static, str>, String)>,
    pub value: Value,
}

pub enum Value {
    Number(Number),
    Summary(Summary),
    /// In nanoseconds; shown in seconds.
    Histogram(Box<HistogramValues>),
}

pub struct Summary {
    /// The quantile as it is written, and its value.
    pub quantiles: Vec<(&'static str, f64)>,
    pub sum: f64,
    pub count: u64,
}

/// What a sample's value may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    Whole(i128),
    Float(f64),
}

impl Page {
    /// Opens a family; its samples follow.
    pub fn family(&mut self, name: &str, kind: Kind, help: &'static str) -> &mut Page {
        self.families.push(Family { name: name.to_owned(), help, kind, samples: Vec::new() });
        self
    }

    /// A sample of the open family.
    pub fn sample(&mut self, labels: &[Label<'_>], value: impl Into<Number>) -> &mut Page {
        self.add(labels, Value::Number(value.into()))
    }

    /// A sample of the open family whose labels are not known beforehand.
    pub fn sample_of(&mut self, labels: Vec<(Cow<'static, str>, String)>, value: impl Into<Number>) {
        if let Some(open) = self.families.last_mut() {
            open.samples.push(Sample { labels, value: Value::Number(value.into()) });
        }
    }

    /// A family of one sample.
    pub fn single(&mut self, name: &str, kind: Kind, help: &'static str, value: impl Into<Number>) {
        self.family(name, kind, help).sample(&[], value);
    }

    /// A summary's quantiles over the window, and sum and count of all time, in units of `unit_ns`.
    pub fn summary(
        &mut self,
        labels: &[Label<'_>],
        quantiles: &[&'static str],
        window: &HistogramValues,
        total: &HistogramValues,
        unit_ns: f64,
    ) {
        let at = |quantile: &&'static str| {
            let part: f64 = quantile.parse().unwrap_or(0.0);
            (*quantile, window.quantile_ns(part) as f64 / unit_ns)
        };
        let quantiles = quantiles.iter().map(at).collect();
        let summary = Summary { quantiles, sum: total.sum as f64 / unit_ns, count: total.count() };
        self.add(labels, Value::Summary(summary));
    }

    pub fn histogram(&mut self, labels: &[Label<'_>], values: &HistogramValues) {
        self.add(labels, Value::Histogram(Box::new(values.clone())));
    }

    fn add(&mut self, labels: &[Label<'_>], value: Value) -> &mut Page {
        let labels = labels.iter().map(|(name, value)| (Cow::Borrowed(*name), (*value).to_owned())).collect();
        if let Some(open) = self.families.last_mut() {
            open.samples.push(Sample { labels, value });
        }
        self
    }
}

impl Number {
    pub fn float(self) -> f64 {
        match self {
            Number::Whole(value) => value as f64,
            Number::Float(value) => value,
        }
    }
}

macro_rules! whole {
    ($($name:ty),*) => {
        $(impl From<$name> for Number {
            fn from(value: $name) -> Number {
                // Wider than each of them.
                Number::Whole(value as i128)
            }
        })*
    };
}

whole!(u64, i64, u32, i32, usize);

impl From<f64> for Number {
    fn from(value: f64) -> Number {
        Number::Float(value)
    }
}
