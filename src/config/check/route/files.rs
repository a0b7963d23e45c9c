//! `route.files` and `[[accel]]`: directories, and what is sent of them.

use crate::config::{
    check::{origin::KnownOrigins, surroundings::CheckEnvironment},
    file::{fault::FaultReport, place::FilePlace, raw, OneOrMany, PlacedValue, TableField},
    files::{AccelLocation, AccelTarget, FilesConfig, ImmutableRule},
};

use globset::{GlobBuilder, GlobSetBuilder};
use http::HeaderValue;
use std::path::PathBuf;

/// The value of `immutable` that selects names with a hash.
const HASHED: &str = "hashed";

/// Checks a route's `files` at `place`.
pub(crate) fn check_files(
    raw: raw::Files,
    place: &FilePlace,
    around: &CheckEnvironment<'_>,
    report: &mut FaultReport,
) -> Option<FilesConfig> {
    let root = raw.root.required("root", place, report).map(|root| directory(&root, around, report));
    let index = raw.index.or_if(
        "index.html".to_owned(),
        |name| !name.contains(['/', '\\']) && name != "." && name != "..",
        "must be the name of a file, without a directory",
        report,
    );
    let cache_control = cache_control(raw.cache_control, report);
    let immutable = immutable(raw.immutable, report);
    Some(FilesConfig {
        root: root?,
        index: index?,
        precompressed: raw.precompressed.or(true)?,
        symlinks: raw.symlinks.or(false)?,
        hidden: raw.hidden.or(false)?,
        cache_control: cache_control?,
        immutable: immutable?,
    })
}

/// Resolves a directory against that of the configuration. Warns if it does not exist yet.
fn directory(root: &PlacedValue<String>, around: &CheckEnvironment<'_>, report: &mut FaultReport) -> PathBuf {
    let path = around.resolve(&root.value);
    match std::fs::metadata(&path) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => report.fault(&root.place, format!("{:?} is not a directory", root.value)),
        Err(error) => report.warn(&root.place, format!("can't look at {:?}: {error}", root.value)),
    }
    path
}

fn cache_control(raw: TableField<String>, report: &mut FaultReport) -> Option<HeaderValue> {
    match raw.optional()? {
        None => Some(HeaderValue::from_static("no-cache")),
        Some(PlacedValue { value, place }) => match HeaderValue::from_str(&value) {
            Ok(said) if value.is_ascii() => Some(said),
            _ => {
                report.fault(&place, "must be a header value: printable ASCII");
                None
            }
        },
    }
}

fn immutable(raw: TableField<OneOrMany<String>>, report: &mut FaultReport) -> Option<ImmutableRule> {
    let Some(PlacedValue { value: OneOrMany(globs), .. }) = raw.optional()? else {
        return Some(ImmutableRule::Nothing);
    };
    if let [PlacedValue { value, .. }] = &globs[..] {
        if value == HASHED {
            return Some(ImmutableRule::Hashed);
        }
    }
    let mut set = GlobSetBuilder::new();
    let mut all_good = true;
    for PlacedValue { value, place } in globs {
        match GlobBuilder::new(value.trim_start_matches('/')).literal_separator(true).build() {
            Ok(glob) => drop(set.add(glob)),
            Err(error) => {
                report.fault(
                    &place,
                    format!("must be \"hashed\" or a pattern such as \"assets/**\": {}", error.kind()),
                );
                all_good = false;
            }
        }
    }
    // Globs that were built one by one can be built together.
    set.build().ok().filter(|_| all_good).map(ImmutableRule::Matching)
}

/// Checks every `[[accel]]`.
pub(crate) fn check_accels(
    raw: Vec<PlacedValue<raw::Accel>>,
    origins: &KnownOrigins,
    around: &CheckEnvironment<'_>,
    report: &mut FaultReport,
) -> Option<Vec<AccelLocation>> {
    let mut taken: Vec<Option<String>> = Vec::new();
    let mut checked = Vec::new();
    for PlacedValue { value: mut raw, place } in raw {
        let internal = std::mem::take(&mut raw.internal).required("internal", &place, report);
        let internal = internal.and_then(|internal| {
            let twin = taken.iter().position(|other| other.as_ref() == Some(&internal.value));
            if let Some(twin) = twin {
                report.fault(&internal.place, format!("the same as accel[{twin}]"));
            }
            prefix(internal, report)
        });
        taken.push(internal.clone());
        let to = accel_to(raw, &place, origins, around, report);
        checked.push(internal.zip(to).map(|(internal, to)| AccelLocation { internal, to }));
    }
    checked.into_iter().collect()
}

/// A path that ends with a slash, so that nothing beside it begins with it.
fn prefix(raw: PlacedValue<String>, report: &mut FaultReport) -> Option<String> {
    let complaint = match raw::exact_path(&raw.value) {
        Ok(path) if path.ends_with('/') => return Some(path),
        Ok(_) => "must end with \"/\"",
        Err(complaint) => complaint,
    };
    report.fault(&raw.place, complaint);
    None
}

/// Checks the target of an internal location: a directory or an origin.
fn accel_to(
    raw: raw::Accel,
    place: &FilePlace,
    origins: &KnownOrigins,
    around: &CheckEnvironment<'_>,
    report: &mut FaultReport,
) -> Option<AccelTarget> {
    match (raw.root.optional()?, raw.origin.optional()?) {
        (Some(root), None) => {
            if let TableField::Given(prefix) = &raw.prefix {
                report.fault(&prefix.place, "belongs to origin");
            }
            let (symlinks, hidden) = (raw.symlinks.or(false)?, raw.hidden.or(false)?);
            Some(AccelTarget::Root { root: directory(&root, around, report), symlinks, hidden })
        }
        (None, Some(name)) => {
            for switch in [&raw.symlinks, &raw.hidden] {
                if let TableField::Given(switch) = switch {
                    report.fault(&switch.place, "belongs to root");
                }
            }
            let origin = origins.find(&name, report);
            let prefix = match raw.prefix.optional()? {
                Some(given) => prefix(given, report)?,
                None => "/".to_owned(),
            };
            Some(AccelTarget::Origin { origin: origin?, prefix })
        }
        _ => {
            report.fault(place, "must have either root or origin");
            None
        }
    }
}
