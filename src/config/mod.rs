//! The configuration: from a TOML file to values that the program may rely on.
//!
//! Two separate steps: `file::raw` declares the schema of the file (its tables, each value's type and unit),
//! `check` makes [`Config`] of it (defaults, references between tables, combinations that can't work). Both
//! report into one list, so that a single run names every fault with its line, its key and the nearest known
//! key.
//!
//! Nothing here opens a socket. Secrets are read (environment or file) during the check and never printed; a
//! fault names the variable or the file. Relative paths start from the directory of the configuration file.
//! `docs/configuration.md` describes every key.

mod check;
mod cors;
pub(crate) mod file;
mod file_stamp;
mod files;
mod headers;
mod live;
mod origin;
mod reserved;
mod secret;
mod types;

pub use {
    cors::{AllowedOrigins, CorsConfig, OriginPattern},
    file::fault::{ConfigError, ConfigFault, ConfigFaults},
    file_stamp::{file_stamp, FileStamp},
    files::{AccelLocation, AccelTarget, FilesConfig, ImmutableRule, RouteTarget},
    headers::{
        HeaderRules, HeaderTemplate, MessageDirection, NamePattern, RouteHeaders, TemplateSegment, Variable,
    },
    live::{LiveEndpointConfig, LiveRules, LiveTrigger, WatcherLimits},
    reserved::{begins_to_cgi, claim_of_field, is_disguised, same_to_cgi, FieldClaim},
};

pub use origin::*;

pub use secret::Secret;
pub use types::*;

use file::{fault::FaultReport, place::FilePlace, PlacedValue, ReadValue};

use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use toml::de::{DeTable, DeValue};

/// Reads a duration as the file has it: `"500ms"`, `"20s"`, `"1h"`.
///
/// # Errors
/// A message that says why the text is no duration.
pub fn duration(text: &str) -> Result<Duration, String> {
    file::units::parse_duration(text).map_err(|error| error.to_string())
}

/// A configuration without faults, and its warnings.
#[derive(Debug, Clone)]
pub struct LoadedConfig {
    /// The configuration to run with.
    pub config: Config,
    /// One line each, `file:line:column: key: message`, in the file's order.
    pub warnings: Vec<String>,
    /// The files that secrets were read from, in the state before they were read.
    pub secret_files: Vec<(PathBuf, FileStamp)>,
}

impl Config {
    /// Reads the file at `path`, with secrets from the process's environment.
    ///
    /// # Errors
    /// [`ConfigError::Read`] if the file can't be read as text, [`ConfigError::Faults`] with all its faults.
    pub fn load(path: &Path) -> Result<LoadedConfig, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Ok(Self::parse(&text, &path.display().to_string(), &|name| std::env::var(name).ok())?)
    }

    /// Checks `text`. `file_name` is put before every fault, and relative paths start from its directory;
    /// `env` looks up environment variables.
    ///
    /// # Errors
    /// All faults at once. Where the TOML itself is broken, what could not be read hides its own keys: the
    /// references between tables are then not looked at.
    pub fn parse(
        text: &str,
        file_name: &str,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<LoadedConfig, ConfigFaults> {
        let mut report = FaultReport::default();
        let (document, errors) = DeTable::parse_recoverable(text);
        let whole = FilePlace::root();
        let value = DeValue::Table(document.into_inner());
        let Some(file) = file::raw::File::read(&value, &whole, &mut report) else {
            return Err(report.into_faults(text, file_name));
        };
        if !errors.is_empty() {
            return Err(report.with_syntax(&errors, text).into_faults(text, file_name));
        }
        let directory = Path::new(file_name).parent().unwrap_or(Path::new(""));
        let around = check::surroundings::CheckEnvironment { env, directory };
        let config = check::check_file(PlacedValue { value: file, place: whole }, &around, &mut report);
        match config {
            Some(config) if report.is_clean() => {
                let secret_files = std::mem::take(&mut report.secret_files);
                Ok(LoadedConfig { config, warnings: report.into_warnings(text, file_name), secret_files })
            }
            _ => Err(report.into_faults(text, file_name)),
        }
    }
}

#[cfg(test)]
mod tests;
