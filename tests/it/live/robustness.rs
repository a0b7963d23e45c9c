//! What nobody chooses: contents that look like events, clients that come and go or read nothing, versions that are
//! written without a pause.

mod any_text;
mod churn;
mod slow;
mod version_writes;
