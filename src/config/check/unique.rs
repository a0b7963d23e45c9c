//! Checks what must be unique to a route: its name, and its combination of host, path and method.

use crate::{
    config::{
        file::{fault::FaultReport, place::FilePlace, raw, PlacedValue, TableField},
        types::PathPattern,
    },
    name::{Name, MAX_NAME},
};
use std::collections::{HashMap, HashSet};

/// The names of all routes, each once.
pub(super) struct RouteNames {
    taken: HashSet<Name>,
    /// The next number for a derived name that is taken.
    numbers: HashMap<Name, usize>,
}

impl RouteNames {
    /// Takes the names that the file gives, so that no derived one meets them.
    pub(super) fn reserve(routes: &[PlacedValue<raw::Route>], report: &mut FaultReport) -> Self {
        let mut taken = HashSet::new();
        for route in routes {
            if let TableField::Given(PlacedValue { value, place }) = &route.value.name {
                if !taken.insert(value.clone()) {
                    report.fault(place, "another route has the same name");
                }
            }
        }
        Self { taken, numbers: HashMap::new() }
    }

    /// Derives a name from the path: `/api/widgets/kpi` → `api_widgets_kpi`, `/x/*` → `x_any`, `/` → `root`;
    /// numbered from 2 if it is taken.
    pub(super) fn derive(&mut self, path: &PathPattern) -> Option<Name> {
        let (text, suffix) = match path {
            PathPattern::Exact(path) => (path, ""),
            PathPattern::Prefix(path) => (path, "/any"),
        };
        let text = format!("{}{suffix}", text.trim_matches('/'));
        let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') { c } else { '_' };
        // Room for an underscore and a number.
        let text: String = text.trim_matches('/').chars().map(safe).take(MAX_NAME - 8).collect();
        let base: Name = if text.is_empty() { "root" } else { &text }.parse().ok()?;
        if self.taken.insert(base.clone()) {
            return Some(base);
        }
        let number = self.numbers.entry(base.clone()).or_insert(1);
        loop {
            *number += 1;
            let name: Name = format!("{base}_{number}").parse().ok()?;
            if self.taken.insert(name.clone()) {
                return Some(name);
            }
        }
    }
}

/// The hosts, paths and methods that are taken, each with the route that took it.
#[derive(Default)]
pub(super) struct TakenPaths(HashMap<(Option<String>, PathPattern), Vec<MethodClaim>>);

/// The methods (none: any) of the route of this index.
struct MethodClaim {
    index: usize,
    methods: Vec<http::Method>,
}

impl TakenPaths {
    /// Claims them for the route of this index; that another one has them is a fault at `place`.
    pub(super) fn claim(
        &mut self,
        key: (Option<String>, PathPattern),
        methods: &[http::Method],
        index: usize,
        place: &FilePlace,
        report: &mut FaultReport,
    ) {
        let others = self.0.entry(key).or_default();
        let overlaps = |theirs: &&MethodClaim| {
            theirs.methods.is_empty()
                || methods.is_empty()
                || theirs.methods.iter().any(|m| methods.contains(m))
        };
        if let Some(twin) = others.iter().find(overlaps).map(|twin| twin.index) {
            report.fault(
                place,
                format!("route[{twin}] has the same host, path and method (HEAD comes with GET)"),
            );
        }
        others.push(MethodClaim { index, methods: methods.to_vec() });
    }
}
