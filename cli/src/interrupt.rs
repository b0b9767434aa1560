//! Ctrl-C: what it means depends on what the program is doing.
//!
//! The handler runs on a thread of the `ctrlc` crate, so that it may lock and send.

use std::sync::{Mutex, MutexGuard, PoisonError};

use host::engine::ErrorKind;

use crate::error::CliError;

/// What the next Ctrl-C does.
enum Action {
    /// Ends the program.
    Exit,
    /// Nothing: the line editor of a chat takes its own presses, and between its lines there is
    /// nothing to stop.
    Ignore,
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
            std::process::exit(i32::from(ErrorKind::Cancelled.exit_code()));
        }
    })
    .map_err(|error| CliError::Internal(format!("Ctrl-C cannot be handled: {error}")))
}

/// Handles a press; `false` asks to end the program.
fn pressed(action: &mut Action) -> bool {
    match action {
        Action::Exit | Action::Stopping { then_exit: true } => false,
        Action::Ignore | Action::Stopping { then_exit: false } => true,
        Action::Stop { stop, then_exit } => {
            stop();
            *action = Action::Stopping { then_exit: *then_exit };
            true
        }
    }
}

/// While it lives, Ctrl-C does something else than before.
pub(crate) struct Guard {
    before: Action,
}

impl Guard {
    fn new(now: Action) -> Self {
        Self { before: std::mem::replace(&mut *action(), now) }
    }
}

/// Makes Ctrl-C call `stop` once; a second one ends the program if `then_exit`.
pub(crate) fn stops(stop: impl Fn() + Send + 'static, then_exit: bool) -> Guard {
    Guard::new(Action::Stop { stop: Box::new(stop), then_exit })
}

/// Makes Ctrl-C do nothing, but for answers that say otherwise meanwhile.
pub(crate) fn ignored() -> Guard {
    Guard::new(Action::Ignore)
}

impl Drop for Guard {
    fn drop(&mut self) {
        std::mem::swap(&mut *action(), &mut self.before);
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
    fn guards_give_back_what_was_before() {
        let chat = ignored();
        let answer = stops(|| {}, false);
        assert!(pressed(&mut action()));
        assert!(matches!(*action(), Action::Stopping { .. }));
        drop(answer);
        assert!(matches!(*action(), Action::Ignore));
        assert!(pressed(&mut action()));
        drop(chat);
        assert!(matches!(*action(), Action::Exit));
    }

    #[test]
    fn a_chat_outlives_every_press() {
        let (mut action, calls) = stop_counter(false);
        assert!((0..5).all(|_| pressed(&mut action)));
        assert_eq!(calls.load(Ordering::Relaxed), 1);
    }
}
