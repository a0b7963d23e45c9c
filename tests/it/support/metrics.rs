//! A scrape of `/metrics`, read.

use std::collections::BTreeMap;

/// One line of the exposition.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The metric's name, with `_bucket`, `_sum`, `_count` where it is a histogram's.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

/// All samples of one scrape.
#[derive(Debug, Clone)]
pub struct Metrics(pub Vec<Sample>);

impl Metrics {
    /// Reads the text format 0.0.4; a line that isn't in it fails the test.
    pub fn parse(text: &str) -> Self {
        Self(text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(sample).collect())
    }

    /// The sum over all samples of this name that carry these labels (and perhaps others); 0 if there is none.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted = |sample: &&Sample| {
            sample.name == name
                && labels.iter().all(|(key, value)| sample.labels.get(*key).is_some_and(|have| have == value))
        };
        self.0.iter().filter(wanted).map(|sample| sample.value).sum()
    }

    /// Returns true if there is a sample of this name.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|sample| sample.name == name)
    }
}

fn sample(line: &str) -> Sample {
    read(line).unwrap_or_else(|| panic!("malformed sample: {line}"))
}

fn read(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        Some((name, rest)) => (name, rest.strip_suffix('}')?),
        None => (series, ""),
    };
    // Labels here are words of our own: no escapes, no commas inside.
    let labels = labels
        .split(',')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned()))
        .collect();
    Some(Sample { name: name.to_owned(), labels, value: value.parse().ok()? })
}
