//! Finds tool calls in an answer: content, heads of calls, arguments, and what stands between.

use super::arguments::{Read, Reader};
use super::format::{Arguments, Format, Head, Start};
use super::json::{Scanner, Step};
use super::scan::{Begins, begins, find, held, white};
use super::{Piece, Tool};

/// Bytes from an opener to the arguments; what is longer is no call.
const MAX_HEAD: usize = 16 * 1024;

/// Cuts an answer in one format into pieces.
#[derive(Debug)]
pub(super) struct Calls {
    format: &'static Format,
    tools: Vec<Tool>,
    state: State,
    /// Text that is not decided on.
    text: String,
    /// Bytes of it that are done with.
    at: usize,
    /// White space that is content only if content follows.
    white: String,
    /// Calls so far.
    count: usize,
}

#[derive(Debug)]
enum State {
    /// Nothing but white space so far.
    Start,
    Content,
    /// Behind an opener.
    Head(&'static str),
    Arguments(Reader, Option<Scanner>),
    /// In the object around the arguments.
    Outer(Scanner),
    /// Behind a call.
    Behind,
}

impl Calls {
    pub fn new(format: &'static Format, tools: Vec<Tool>) -> Self {
        let (text, white) = (String::new(), String::new());
        Self { format, tools, state: State::Start, text, at: 0, white, count: 0 }
    }

    /// Takes the next text; all that is left at the `end`.
    pub fn push(&mut self, text: &str, end: bool, out: &mut Vec<Piece>) {
        self.text.push_str(text);
        while self.step(end, out) {}
        self.text.drain(..self.at);
        self.at = 0;
        if end && self.count == 0 && !self.white.is_empty() {
            out.push(Piece::Content(std::mem::take(&mut self.white)));
        }
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    /// Goes on by one step; `false` when more text is needed.
    fn step(&mut self, end: bool, out: &mut Vec<Piece>) -> bool {
        match std::mem::replace(&mut self.state, State::Content) {
            State::Start => self.start(end, out),
            State::Content => self.content(end, out),
            State::Head(opener) => self.head(opener, end, out),
            State::Arguments(reader, outer) => self.arguments(reader, outer, end, out),
            State::Outer(scanner) => self.outer(scanner),
            State::Behind => self.behind(end),
        }
    }

    fn start(&mut self, end: bool, out: &mut Vec<Piece>) -> bool {
        let lead = white(self.rest());
        if lead == self.rest().len() && !end {
            self.state = State::Start;
            return false;
        }
        if self.format.bare && self.rest()[lead..].starts_with('{') {
            let space = self.rest()[..lead].to_owned();
            self.white.push_str(&space);
            self.at += lead;
            self.state = State::Head("");
            return true;
        }
        self.content(end, out)
    }

    fn content(&mut self, end: bool, out: &mut Vec<Piece>) -> bool {
        let markers = [self.format.openers, self.format.silent].concat();
        match find(self.rest(), &markers) {
            Some((len, marker)) => {
                self.show(len, out);
                self.at += marker.len();
                let opener = self.format.openers.iter().find(|opener| **opener == marker);
                self.state = opener.map_or(State::Content, |opener| State::Head(opener));
                true
            }
            None => {
                let held = if end { 0 } else { held(self.rest(), &markers) };
                self.show(self.rest().len() - held, out);
                false
            }
        }
    }

    /// Gives the next `len` bytes as content, all but the white space they end with.
    fn show(&mut self, len: usize, out: &mut Vec<Piece>) {
        let text = &self.text[self.at..self.at + len];
        let solid = text.trim_end().len();
        if solid > 0 {
            let mut shown = std::mem::take(&mut self.white);
            shown.push_str(&text[..solid]);
            out.push(Piece::Content(shown));
        }
        self.white.push_str(&text[solid..]);
        self.at += len;
    }

    fn head(&mut self, opener: &'static str, end: bool, out: &mut Vec<Piece>) -> bool {
        let rest = self.rest();
        let (name, id, next) = match (self.format.head)(opener, rest) {
            Head::Wait if !end && rest.len() < MAX_HEAD => {
                self.state = State::Head(opener);
                return false;
            }
            Head::Starts(start) if start.at <= MAX_HEAD => {
                if let Arguments::Json = start.arguments {
                    // Nothing is a call before its arguments are an object.
                    match rest[start.at..].trim_start().chars().next() {
                        None if !end => {
                            self.state = State::Head(opener);
                            return false;
                        }
                        Some('{') => {}
                        _ => return self.no_call(opener, out),
                    }
                }
                let Start { name, id, at, arguments, outer } = start;
                (name, id, Next::Arguments(at, arguments, outer))
            }
            Head::Whole { name, id, arguments, at } if at <= MAX_HEAD => {
                (name, id, Next::Whole(at, arguments))
            }
            _ => return self.no_call(opener, out),
        };
        // A tool that nobody offered is not called.
        let Some(tool) = self.tools.iter().find(|tool| tool.name == name) else {
            return self.no_call(opener, out);
        };
        let index = self.count;
        self.count += 1;
        self.white.clear();
        out.push(Piece::ToolStart { index, id, name });
        match next {
            Next::Arguments(at, arguments, outer) => {
                self.state = State::Arguments(arguments.reader(tool), outer);
                self.at += at + white(&self.rest()[at..]);
            }
            Next::Whole(at, fragment) => {
                out.push(Piece::ToolArguments { index, fragment });
                self.at += at;
                self.state = State::Behind;
            }
        }
        true
    }

    /// What looked like a call is content: the opener itself, and then what follows it.
    fn no_call(&mut self, opener: &'static str, out: &mut Vec<Piece>) -> bool {
        // A bare object has its bracket for an opener.
        let shown = if opener.is_empty() {
            self.at += 1;
            "{"
        } else {
            opener
        };
        if !self.format.control.contains(&shown) {
            let mut text = std::mem::take(&mut self.white);
            text.push_str(shown);
            out.push(Piece::Content(text));
        }
        self.state = State::Content;
        true
    }

    fn arguments(
        &mut self,
        mut reader: Reader,
        outer: Option<Scanner>,
        end: bool,
        out: &mut Vec<Piece>,
    ) -> bool {
        match reader.read_call(&self.text[self.at..], end, self.count - 1, out) {
            Read::More(len) => {
                self.at += len;
                self.state = State::Arguments(reader, outer);
                false
            }
            Read::Done(len) => {
                self.at += len;
                self.state = outer.map_or(State::Behind, State::Outer);
                true
            }
            Read::Broken(len) => {
                self.at += len;
                self.state = State::Behind;
                true
            }
        }
    }

    fn outer(&mut self, mut scanner: Scanner) -> bool {
        for (index, byte) in self.text.bytes().enumerate().skip(self.at) {
            match scanner.feed(byte) {
                Step::More => {}
                // A missing bracket is no reason to refuse what came before it.
                step @ (Step::Done | Step::Invalid) => {
                    self.at = index + usize::from(step == Step::Done);
                    self.state = State::Behind;
                    return true;
                }
            }
        }
        self.at = self.text.len();
        self.state = State::Outer(scanner);
        false
    }

    fn behind(&mut self, end: bool) -> bool {
        self.at += white(self.rest());
        // The next call's opener may begin as a closer does.
        let markers = [self.format.closers, self.format.openers].concat();
        match begins(self.rest(), &markers, end) {
            Begins::Perhaps => {
                self.state = State::Behind;
                false
            }
            Begins::With(opener) if self.format.openers.contains(&opener) => true,
            Begins::With(closer) => {
                self.at += closer.len();
                self.state = State::Behind;
                true
            }
            Begins::Not if self.format.list && self.rest().starts_with('{') => {
                self.state = State::Head("");
                true
            }
            // The state is `Content`.
            Begins::Not => !self.rest().is_empty(),
        }
    }
}

/// What follows the start of a call.
enum Next {
    Arguments(usize, Arguments, Option<Scanner>),
    Whole(usize, String),
}
