//! What a line of the chat means: a turn, a part of one, or a command.

use std::path::PathBuf;

use config::nearest;

/// A command of the chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Lists the commands.
    Help,
    /// Forgets the conversation.
    Clear,
    /// Answers the last turn again.
    Regen,
    /// Writes the conversation to a file.
    Save(PathBuf),
    /// Reads a conversation from a file.
    Load(PathBuf),
    /// Attaches an image.
    Image,
    /// Lists the sampling options.
    List,
    /// Changes one.
    Set(String, String),
    /// Ends the chat.
    Exit,
}

/// Text of `/help`.
pub(crate) const HELP: &str = "\
  /help              this list
  /clear             forget the conversation
  /regen             answer the last turn again
  /save FILE         write the conversation as JSON
  /load FILE         read a conversation
  /image PATH        not supported yet: this build has no vision encoder
  /set               list the sampling options
  /set key=value     change one
  /exit              end (also Ctrl-D)
  A trailing \\ continues on the next line; \"\"\" opens and closes a block of lines; a turn that
  starts with / is written with // there. Ctrl-C stops the answer.
";

const NAMES: [&str; 8] = ["/help", "/clear", "/regen", "/save", "/load", "/image", "/set", "/exit"];

/// A whole input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// Something to say to the model.
    Turn(String),
    /// Something to do.
    Command(Command),
}

/// Reads a whole input; `None` for an empty one.
///
/// # Errors
/// What is wrong with a command, with the nearest known one.
pub(crate) fn parse(input: &str) -> Result<Option<Input>, String> {
    if input.trim().is_empty() {
        return Ok(None);
    }
    match input.strip_prefix('/') {
        Some(turn) if turn.starts_with('/') => Ok(Some(Input::Turn(turn.to_owned()))),
        Some(_) => command(input.trim()).map(|command| Some(Input::Command(command))),
        None => Ok(Some(Input::Turn(input.to_owned()))),
    }
}

fn command(line: &str) -> Result<Command, String> {
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let bare = |command| {
        if rest.is_empty() { Ok(command) } else { Err(format!("{name} takes no argument")) }
    };
    let path = |command: fn(PathBuf) -> Command| {
        if rest.is_empty() {
            Err(format!("{name} needs a file name"))
        } else {
            Ok(command(rest.into()))
        }
    };
    match name {
        "/help" => bare(Command::Help),
        "/clear" => bare(Command::Clear),
        "/regen" => bare(Command::Regen),
        "/exit" => bare(Command::Exit),
        "/save" => path(Command::Save),
        "/load" => path(Command::Load),
        "/image" => Ok(Command::Image),
        "/set" if rest.is_empty() => Ok(Command::List),
        "/set" => match rest.split_once('=') {
            Some((key, value)) => Ok(Command::Set(key.trim().to_owned(), value.trim().to_owned())),
            None => Err(format!("/set {rest}: expected key=value")),
        },
        _ => Err(match nearest(name, NAMES.into_iter()) {
            Some(known) => format!("{name}: unknown command; did you mean {known}?"),
            None => format!("{name}: unknown command; /help lists them"),
        }),
    }
}

/// Puts lines together to inputs: trailing backslashes and `"""` blocks.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    text: String,
    open: Option<Open>,
}

/// Why an input goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    Backslash,
    Block,
}

const FENCE: &str = "\"\"\"";

impl Lines {
    /// Takes a line without its end; gives the input that it completes.
    pub(crate) fn push(&mut self, line: &str) -> Option<String> {
        if self.open == Some(Open::Block) {
            if let Some(last) = line.trim_end().strip_suffix(FENCE) {
                self.text.push_str(last);
                return self.finish();
            }
            self.text.push_str(line);
            self.text.push('\n');
            return None;
        }
        if self.open.is_none()
            && let Some(first) = line.trim_start().strip_prefix(FENCE)
        {
            if let Some(only) = first.trim_end().strip_suffix(FENCE) {
                return Some(only.to_owned());
            }
            self.open = Some(Open::Block);
            self.text.push_str(first);
            if !first.is_empty() {
                self.text.push('\n');
            }
            return None;
        }
        if let Some(part) = line.strip_suffix('\\') {
            self.open = Some(Open::Backslash);
            self.text.push_str(part);
            self.text.push('\n');
            return None;
        }
        self.text.push_str(line);
        self.finish()
    }

    /// What is there at the end of the input, if anything.
    pub(crate) fn finish(&mut self) -> Option<String> {
        let was_block = self.open.take() == Some(Open::Block);
        let mut text = std::mem::take(&mut self.text);
        if was_block && text.ends_with('\n') {
            text.pop(); // the line end before the closing fence
        }
        (!text.is_empty()).then_some(text)
    }

    /// Whether more lines are expected.
    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Forgets an unfinished input.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(lines: &[&str]) -> Vec<String> {
        let mut assembled = Lines::default();
        let mut inputs: Vec<String> =
            lines.iter().filter_map(|line| assembled.push(line)).collect();
        inputs.extend(assembled.finish());
        inputs
    }

    #[test]
    fn lines_become_inputs() {
        assert_eq!(inputs(&["a", "b"]), ["a", "b"]);
        assert_eq!(inputs(&["a\\", "b\\", "c", "d"]), ["a\nb\nc", "d"]);
        assert_eq!(inputs(&["\"\"\"", "a", "", " b\\", "\"\"\"", "c"]), ["a\n\n b\\", "c"]);
        assert_eq!(inputs(&["\"\"\"a", "b\"\"\"", "c"]), ["a\nb", "c"]);
        assert_eq!(inputs(&["\"\"\"a b\"\"\"", "c"]), ["a b", "c"]);
        assert_eq!(inputs(&["\"\"\"", "unfinished"]), ["unfinished"]);
        assert_eq!(inputs(&["", "a"]), ["a"]);
    }

    #[test]
    fn commands_parse() {
        let set = |key: &str, value: &str| Command::Set(key.to_owned(), value.to_owned());
        for (line, expected) in [
            ("/help", Command::Help),
            ("/clear ", Command::Clear),
            ("/regen", Command::Regen),
            ("/save a b.json", Command::Save("a b.json".into())),
            ("/load x", Command::Load("x".into())),
            ("/image x.png", Command::Image),
            ("/set", Command::List),
            ("/set temperature=0.5", set("temperature", "0.5")),
            ("/set  seed = -1", set("seed", "-1")),
            ("/exit", Command::Exit),
        ] {
            assert_eq!(parse(line).unwrap(), Some(Input::Command(expected)), "{line}");
        }
    }

    #[test]
    fn turns_and_empty_inputs() {
        assert_eq!(parse(" hello ").unwrap(), Some(Input::Turn(" hello ".to_owned())));
        assert_eq!(parse("//usr/bin").unwrap(), Some(Input::Turn("/usr/bin".to_owned())));
        assert_eq!(parse("  \n").unwrap(), None);
    }

    #[test]
    fn wrong_commands_say_what_is_wrong() {
        for (line, expected) in [
            ("/hlep", "did you mean /help?"),
            ("/frobnicate", "/help lists them"),
            ("/save", "needs a file name"),
            ("/exit now", "takes no argument"),
            ("/set temperature", "expected key=value"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(expected), "{line}: {error}");
        }
        for name in NAMES {
            assert!(HELP.contains(name));
        }
    }
}
