//! The typed schema of imp.conf.

/// Every setting.
#[derive(Clone, Debug, Default)]
pub struct Config {}
