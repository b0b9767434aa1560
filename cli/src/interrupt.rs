//! Ctrl-C: what it means depends on what the program is doing.
//!
//! The handler runs on a thread of the `ctrlc` crate, so that it may lock and send.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{CANCELLED, CliError};

/// What the next Ctrl-C does.
enum Action {
    /// Ends the program.
    Exit,
    /// Stops the answer; a second one ends the program if `then_exit`.
    Stop { stop: Box<dyn Fn() + Send>, then_exit: bool },
    /// The answer was stopped and has not ended yet.
    Stopping { then_exit: bool },
}

static ACTION: Mutex<Action> = Mutex::new(Action::Exit);

fn action() -> MutexGuard<'static, Action> {
    ACTION.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes over Ctrl-C; until an answer runs it ends the program with the exit code of "cancelled".
///
/// # Errors
/// When the system refuses the handler.
pub(crate) fn install() -> Result<(), CliError> {
    ctrlc::set_handler(|| {
        if !pressed(&mut action()) {
            std::process::exit(i32::from(CANCELLED));
        }
    })
    .map_err(|error| CliError::Internal(format!("Ctrl-C cannot be handled: {error}")))
}

/// Handles a press; `false` asks to end the program.
fn pressed(action: &mut Action) -> bool {
    match action {
        Action::Exit | Action::Stopping { then_exit: true } => false,
        Action::Stopping { then_exit: false } => true,
        Action::Stop { stop, then_exit } => {
            stop();
            *action = Action::Stopping { then_exit: *then_exit };
            true
        }
    }
}

/// While it lives, Ctrl-C stops an answer instead of the program.
pub(crate) struct StopGuard(());

/// Makes Ctrl-C call `stop` once; a second one ends the program if `then_exit`.
pub(crate) fn stops(stop: impl Fn() + Send + 'static, then_exit: bool) -> StopGuard {
    *action() = Action::Stop { stop: Box::new(stop), then_exit };
    StopGuard(())
}

impl Drop for StopGuard {
    fn drop(&mut self) {
        *action() = Action::Exit;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn stop_counter(then_exit: bool) -> (Action, Arc<AtomicUsize>) {
        let calls = Arc::new(AtomicUsize::new(0));
        let counter = calls.clone();
        let stop = Box::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        (Action::Stop { stop, then_exit }, calls)
    }

    #[test]
    fn without_an_answer_the_program_ends() {
        assert!(!pressed(&mut Action::Exit));
    }

    #[test]
    fn a_single_prompt_is_stopped_first_and_killed_second() {
        let (mut action, calls) = stop_counter(true);
        assert!(pressed(&mut action));
        assert!(!pressed(&mut action));
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_chat_outlives_every_press() {
        let (mut action, calls) = stop_counter(false);
        assert!((0..5).all(|_| pressed(&mut action)));
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }
}
