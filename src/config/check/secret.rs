//! Reads secrets from their source: the environment, another file, or the file itself. A fault names the
//! variable or the path, never the content.

use super::surroundings::CheckEnvironment;
use crate::config::{
    file::{
        fault::FaultReport,
        hints,
        place::FilePlace,
        raw::{PlainSecret, SecretSource, Stored},
        OneOrMany, PlacedValue, TableField,
    },
    file_stamp::file_stamp,
    secret::Secret,
};

/// The warning about a secret that is written as plain text.
pub(super) const BETTER_OUTSIDE: &str =
    "stands in the file itself, better: { env = \"NAME\" } or { file = \"path\" }";

/// A secret, or a list of them, each with its place.
pub(super) fn resolve_secrets(
    field: TableField<OneOrMany<SecretSource>>,
    table: &FilePlace,
    around: &CheckEnvironment<'_>,
    report: &mut FaultReport,
) -> Option<Vec<PlacedValue<Secret>>> {
    let PlacedValue { value: OneOrMany(sources), place } = field.required("secret", table, report)?;
    if sources.is_empty() {
        report.fault(&place, "must hold at least one");
        return None;
    }
    let mut read = |PlacedValue { value, place }: PlacedValue<SecretSource>| {
        if matches!(value, SecretSource::Plain(_)) {
            report.warn(&place, BETTER_OUTSIDE);
        }
        let value = Secret::new(text(value, &place, around, report)?);
        Some(PlacedValue { value, place })
    };
    let read: Vec<_> = sources.into_iter().map(&mut read).collect();
    read.into_iter().collect()
}

/// The text behind a source.
pub(super) fn text(
    source: SecretSource,
    place: &FilePlace,
    around: &CheckEnvironment<'_>,
    report: &mut FaultReport,
) -> Option<String> {
    match source {
        SecretSource::Plain(PlainSecret(text)) => match hints::shell_variable(&text) {
            Some(name) if text.starts_with('$') => {
                report.fault(place, format!("${name} is not replaced: write {{ env = \"{name}\" }}"));
                None
            }
            _ => Some(text),
        },
        SecretSource::Stored(Stored { env, file }) => match (env.optional()?, file.optional()?) {
            (Some(name), None) => from_environment(name, around, report),
            (None, Some(path)) => from_file(path, around, report),
            _ => {
                report.fault(place, "must have either env or file");
                None
            }
        },
    }
}

fn from_environment(
    name: PlacedValue<String>,
    around: &CheckEnvironment<'_>,
    report: &mut FaultReport,
) -> Option<String> {
    let PlacedValue { value: name, place } = name;
    let text = (around.env)(&name);
    // The secret itself may have been written in place of a name.
    let shown =
        if hints::is_variable_name(&name) { format!("{name:?}") } else { "that is named here".into() };
    match &text {
        None => report.fault(&place, format!("the environment variable {shown} is not set")),
        Some(text) if text.is_empty() => {
            report.fault(&place, format!("the environment variable {shown} is empty"));
        }
        Some(_) => return text,
    }
    None
}

/// The file's text without the line end that editors leave.
fn from_file(
    path: PlacedValue<String>,
    around: &CheckEnvironment<'_>,
    report: &mut FaultReport,
) -> Option<String> {
    let PlacedValue { value: path, place } = path;
    let shown =
        if hints::is_plain_path(&path) { format!("{path:?}") } else { "the file that is named here".into() };
    let file = around.resolve(&path);
    report.secret_files.push((file.clone(), file_stamp(&file)));
    match std::fs::read_to_string(file) {
        Err(error) => report.fault(&place, format!("can't read {shown}: {error}")),
        Ok(text) => match text.trim_end_matches(['\r', '\n']) {
            "" => report.fault(&place, format!("{shown} is empty")),
            // Invisible in an editor, it would be a part of the secret.
            marked if marked.starts_with('\u{feff}') => report.fault(
                &place,
                format!("{shown} begins with a byte order mark (U+FEFF): save it as UTF-8 without one"),
            ),
            secret => return Some(secret.to_owned()),
        },
    }
    None
}
