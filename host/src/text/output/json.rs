//! JSON, one byte at a time: where a value ends, whether it still is one, and what would complete it.

/// Nesting that is followed; deeper text is not taken for JSON.
const MAX_DEPTH: usize = 128;

/// A validating reader of one JSON value.
#[derive(Clone, Debug)]
pub(super) struct Scanner {
    /// The open brackets, `{` or `[`.
    stack: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// A value must follow.
    Value,
    /// A value or `]`.
    FirstItem,
    /// A key or `}`.
    FirstKey,
    /// A key.
    Key,
    Colon,
    /// A comma or a closing bracket.
    After,
    Text {
        key: bool,
        escape: Escape,
    },
    Number(Number),
    /// What is left of `true`, `false` or `null`.
    Literal(&'static str),
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Escape {
    None,
    Backslash,
    /// Hexadecimal digits to come.
    Unicode(u8),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Number {
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
}

/// What a byte did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Step {
    More,
    /// The byte is the last of the value.
    Done,
    /// The byte cannot be there.
    Invalid,
}

impl Scanner {
    /// Before a value.
    pub fn new() -> Self {
        Self { stack: vec![], state: State::Value }
    }

    /// Inside an object, behind the value of one of its keys.
    pub fn behind_a_value() -> Self {
        Self { stack: vec![b'{'], state: State::After }
    }

    /// Whether the next byte belongs to a string.
    pub fn in_text(&self) -> bool {
        matches!(self.state, State::Text { .. })
    }

    /// Whether a key or the end of an object is to follow.
    pub fn wants_key(&self) -> bool {
        matches!(self.state, State::FirstKey | State::Key)
    }

    /// Takes a byte. Only values with brackets or quotes tell their end; a number at the top never does.
    pub fn feed(&mut self, byte: u8) -> Step {
        let white = matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        let next = match (self.state, byte) {
            (State::Text { key, escape }, _) => self.text(byte, key, escape),
            (State::Literal(rest), _) => match rest.as_bytes() {
                [first, ..] if *first == byte => match &rest[1..] {
                    "" => self.behind(),
                    rest => Some(State::Literal(rest)),
                },
                _ => None,
            },
            (State::Number(number), _) => match number.next(byte) {
                Some(number) => Some(State::Number(number)),
                None if number.may_end() => {
                    self.state = self.behind_value();
                    return self.feed(byte);
                }
                None => None,
            },
            (State::Done, _) => None,
            (state, _) if white => Some(state),
            (State::FirstItem, b']') => self.close(b'['),
            (State::FirstKey, b'}') => self.close(b'{'),
            (State::Value | State::FirstItem, _) => self.value(byte),
            (State::FirstKey | State::Key, b'"') => {
                Some(State::Text { key: true, escape: Escape::None })
            }
            (State::Colon, b':') => Some(State::Value),
            (State::After, b',') => match self.stack.last() {
                Some(b'{') => Some(State::Key),
                Some(_) => Some(State::Value),
                None => None,
            },
            (State::After, b'}') => self.close(b'{'),
            (State::After, b']') => self.close(b'['),
            _ => None,
        };
        match next {
            None => Step::Invalid,
            Some(state) => {
                self.state = state;
                if state == State::Done { Step::Done } else { Step::More }
            }
        }
    }

    fn value(&mut self, byte: u8) -> Option<State> {
        Some(match byte {
            b'{' | b'[' if self.stack.len() < MAX_DEPTH => {
                self.stack.push(byte);
                if byte == b'{' { State::FirstKey } else { State::FirstItem }
            }
            b'"' => State::Text { key: false, escape: Escape::None },
            b'-' => State::Number(Number::Minus),
            b'0' => State::Number(Number::Zero),
            b'1'..=b'9' => State::Number(Number::Integer),
            b't' => State::Literal("rue"),
            b'f' => State::Literal("alse"),
            b'n' => State::Literal("ull"),
            _ => return None,
        })
    }

    fn text(&self, byte: u8, key: bool, escape: Escape) -> Option<State> {
        let escape = match (escape, byte) {
            (Escape::None, b'"') if key => return Some(State::Colon),
            (Escape::None, b'"') => return self.behind(),
            (Escape::None, b'\\') => Escape::Backslash,
            (Escape::None, 0..0x20) => return None,
            (Escape::None, _) => Escape::None,
            (Escape::Backslash, b'u') => Escape::Unicode(4),
            (Escape::Backslash, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                Escape::None
            }
            (Escape::Backslash, _) => return None,
            (Escape::Unicode(left), _) if byte.is_ascii_hexdigit() => match left {
                1 => Escape::None,
                left => Escape::Unicode(left - 1),
            },
            (Escape::Unicode(_), _) => return None,
        };
        Some(State::Text { key, escape })
    }

    fn behind_value(&self) -> State {
        if self.stack.is_empty() { State::Done } else { State::After }
    }

    fn behind(&self) -> Option<State> {
        Some(self.behind_value())
    }

    fn close(&mut self, bracket: u8) -> Option<State> {
        if self.stack.last() != Some(&bracket) {
            return None;
        }
        self.stack.pop();
        self.behind()
    }

    /// What makes the text so far a whole value.
    pub fn completion(&self) -> String {
        let mut rest = String::new();
        match self.state {
            State::Text { key, escape } => {
                match escape {
                    Escape::None => {}
                    Escape::Backslash => rest.push('\\'),
                    Escape::Unicode(left) => rest.extend((0..left).map(|_| '0')),
                }
                rest.push_str(if key { "\":null" } else { "\"" });
            }
            State::Value => rest.push_str("null"),
            State::Key => rest.push_str("\"\":null"),
            State::Colon => rest.push_str(":null"),
            State::Literal(left) => rest.push_str(left),
            State::Number(number) if !number.may_end() => rest.push('0'),
            _ => {}
        }
        let closers = self.stack.iter().rev().map(|open| if *open == b'{' { '}' } else { ']' });
        rest.extend(closers);
        rest
    }
}

impl Number {
    fn next(self, byte: u8) -> Option<Self> {
        Some(match (self, byte) {
            (Self::Minus, b'0') => Self::Zero,
            (Self::Minus | Self::Integer, b'0'..=b'9') => Self::Integer,
            (Self::Zero | Self::Integer, b'.') => Self::Point,
            (Self::Point | Self::Fraction, b'0'..=b'9') => Self::Fraction,
            (Self::Zero | Self::Integer | Self::Fraction, b'e' | b'E') => Self::Exponent,
            (Self::Exponent, b'+' | b'-') => Self::ExponentSign,
            (Self::Exponent | Self::ExponentSign | Self::ExponentDigits, b'0'..=b'9') => {
                Self::ExponentDigits
            }
            _ => return None,
        })
    }

    fn may_end(self) -> bool {
        matches!(self, Self::Zero | Self::Integer | Self::Fraction | Self::ExponentDigits)
    }
}

/// How a control character is written inside a JSON string.
pub(super) fn escape(byte: u8) -> String {
    match byte {
        b'\n' => "\\n".to_owned(),
        b'\r' => "\\r".to_owned(),
        b'\t' => "\\t".to_owned(),
        _ => format!("\\u{byte:04x}"),
    }
}

/// The text of a JSON string, without its quotes.
pub(super) fn escaped(text: &str) -> String {
    let quoted = quoted(text);
    quoted[1..quoted.len() - 1].to_owned()
}

/// A JSON string.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The arguments of a tool call whose answer was cut off, completed to valid JSON: open strings and brackets are
/// closed, a key without a value gets `null`. Arguments that are whole, or no JSON at all, stay as they are.
pub fn complete_json(text: &str) -> String {
    let mut scanner = Scanner::new();
    for byte in text.trim_end().bytes() {
        match scanner.feed(byte) {
            Step::More => {}
            Step::Done | Step::Invalid => return text.to_owned(),
        }
    }
    format!("{text}{}", scanner.completion())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    /// Whether all of `text` is one value with brackets, and not before its end.
    fn scans(text: &str) -> bool {
        let mut scanner = Scanner::new();
        let mut steps = text.bytes().map(|byte| scanner.feed(byte));
        steps.find(|step| *step != Step::More) == Some(Step::Done) && steps.next().is_none()
    }

    #[test]
    fn agrees_with_serde_json() {
        let texts = [
            r#"{}"#,
            r#"{"a":1,"b":[true,false,null,-0.5e+3,"x\"\\\u00e9"],"c":{"d":[]}}"#,
            r#"{"a":01}"#,
            r#"{"a":1.}"#,
            r#"{"a":-}"#,
            r#"{"a":1e}"#,
            r#"{"a" 1}"#,
            r#"{"a":1,}"#,
            r#"[1,]"#,
            r#"[1 2]"#,
            r#"{"a":tru}"#,
            r#"{"a":"\x"}"#,
            "{\"a\":\"\n\"}",
            r#"{,}"#,
            r#"[1}"#,
            r#"{"a":"\u00g0"}"#,
            " [ 1 , { } ]",
        ];
        for text in texts {
            assert_eq!(scans(text), serde_json::from_str::<Value>(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn every_prefix_can_be_completed() {
        let text = r#"{"a":[1,-2.5e3,"é\n\u12ab",{"b":true,"c":null}],"d":{"e":false}}"#;
        for end in (1..=text.len()).filter(|end| text.is_char_boundary(*end)) {
            let whole = complete_json(&text[..end]);
            assert!(serde_json::from_str::<Value>(&whole).is_ok(), "{whole}");
        }
        assert_eq!(complete_json("{\"a\":1} x"), "{\"a\":1} x");
    }

    proptest! {
        #[test]
        fn any_short_text_agrees_with_serde_json(text in "[\\[{][\\[\\]{}:,\"a1.e\\- \\\\tru]{0,12}") {
            prop_assert_eq!(scans(&text), serde_json::from_str::<Value>(&text).is_ok());
        }
    }
}
