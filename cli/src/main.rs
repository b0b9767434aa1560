//! imp-cli
fn main() {}
