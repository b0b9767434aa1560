//! The typed schema of `imp.conf`.
//!
//! [`Config`] holds one struct a section; [`Config::load`] finds the file, reads it and applies `--set`.
//! A key is one documented row of the table in `schema.rs`: its field, default, parsing, `--set`, its lines in
//! `imp.conf.example` ([`Config::example`]) and in the reference ([`Config::reference`]) follow from the row.
//!
//! Nothing here knows what a setting does, nor reads the environment except in [`Environment::current`].

#![forbid(unsafe_code)]

mod document;
mod error;
mod load;
mod nearest;
mod parse;
mod schema;
mod table;
mod value;

pub use error::{ConfigError, Origin};
pub use load::{Environment, Loaded};
pub use nearest::nearest;
pub use schema::{
    Attention, Config, Diagnostics, KvCache, KvDtype, LogLevel, Paths, RopeOverride, RopeScaling,
    Runtime, Toggle,
};
pub use table::Key;
pub use value::{Limits, Setting};

#[cfg(test)]
mod tests;
