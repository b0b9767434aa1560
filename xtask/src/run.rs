//! Running programs, said before and checked after.

use std::ffi::OsStr;
use std::process::Command;

use crate::{TaskError, root};

/// A program with its arguments, run in the repository.
pub struct Program(Command);

/// A program found on the search path.
pub fn program(name: &str) -> Program {
    let mut command = Command::new(name);
    command.current_dir(root());
    Program(command)
}

/// The cargo that runs this task.
pub fn cargo(args: &[&str]) -> Program {
    program(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".into())).args(args)
}

impl Program {
    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.0.arg(arg);
        self
    }
    /// Adds arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.0.args(args);
        self
    }
    /// Runs it to its end.
    ///
    /// # Errors
    /// When it cannot be started, or ends with an error.
    pub fn check(mut self) -> Result<(), TaskError> {
        let command = self.line();
        let failed = |what: String| TaskError::Command { command: command.clone(), what };
        match self.0.status() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(failed(status.to_string())),
            Err(e) => Err(failed(e.to_string())),
        }
    }
    /// Whether it runs at all; what it prints is dropped.
    pub fn works(mut self) -> bool {
        self.0.output().is_ok_and(|o| o.status.success())
    }
    /// What it prints, if it works.
    pub fn output(mut self) -> Option<String> {
        let output = self.0.output().ok().filter(|o| o.status.success())?;
        String::from_utf8(output.stdout).ok()
    }
    fn line(&self) -> String {
        std::iter::once(self.0.get_program())
            .chain(self.0.get_args())
            .map(|s| s.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ")
    }
}
