//! GBNF, the grammar notation of llama.cpp, in Lark's.
//!
//! Every character becomes a terminal of its own, so that no longest match of a lexer decides between rules.

use std::collections::HashMap;
use std::fmt::Write;

use super::limits::MAX_GRAMMAR_DEPTH;

/// The Lark grammar that accepts the same texts, its rules in the same order.
///
/// # Errors
/// The line and what is wrong there.
pub(super) fn to_lark(gbnf: &str) -> Result<String, String> {
    let mut parser =
        Parser { rest: gbnf, line: 1, names: HashMap::new(), defined: vec![], depth: 0 };
    let mut rules = String::new();
    parser.space(true);
    while !parser.rest.is_empty() {
        let rule = parser.rule()?;
        rules.push_str(&rule);
        parser.space(true);
    }
    let Some(root) = parser.names.get("root").filter(|id| parser.defined.contains(id)) else {
        return Err("it has no rule named root".to_owned());
    };
    if let Some((name, _)) = parser.names.iter().find(|(_, id)| !parser.defined.contains(id)) {
        return Err(format!("the rule {name} is used and not defined"));
    }
    Ok(format!("start: r{root}\n{rules}"))
}

struct Parser<'a> {
    rest: &'a str,
    line: usize,
    /// Each rule's number.
    names: HashMap<&'a str, usize>,
    /// The numbers of those that were defined.
    defined: Vec<usize>,
    /// Brackets that are open.
    depth: usize,
}

impl<'a> Parser<'a> {
    fn error<T>(&self, problem: &str) -> Result<T, String> {
        let near: String = self.rest.chars().take(20).collect();
        Err(format!("line {}: {problem} at {near:?}", self.line))
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.line += usize::from(c == '\n');
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn take(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Passes over spaces and comments, and over the ends of lines where `lines` says so.
    fn space(&mut self, lines: bool) {
        while let Some(c) = self.rest.chars().next() {
            match c {
                '#' => {
                    let end = self.rest.find('\n').unwrap_or(self.rest.len());
                    self.rest = &self.rest[end..];
                }
                '\n' | '\r' if !lines => break,
                c if c.is_whitespace() => drop(self.next()),
                _ => break,
            }
        }
    }

    fn name(&mut self) -> Option<&'a str> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let len = self.rest.find(|c| !is_name(c)).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(len);
        self.rest = rest;
        (len > 0).then_some(name)
    }

    fn id(&mut self, name: &'a str) -> usize {
        let next = self.names.len();
        *self.names.entry(name).or_insert(next)
    }

    fn rule(&mut self) -> Result<String, String> {
        let Some(name) = self.name() else { return self.error("expected the name of a rule") };
        let id = self.id(name);
        if self.defined.contains(&id) {
            return self.error(&format!("the rule {name} is defined twice, the second time"));
        }
        self.defined.push(id);
        self.space(false);
        if !self.take("::=") {
            return self.error("expected ::=");
        }
        self.space(true);
        let body = self.alternatives(false)?;
        if !self.rest.is_empty() && !self.rest.starts_with(['\n', '\r']) {
            return self.error("expected the end of the rule");
        }
        Ok(format!("r{id}: {body}\n"))
    }

    fn alternatives(&mut self, nested: bool) -> Result<String, String> {
        let mut all = self.sequence(nested)?;
        while self.take("|") {
            self.space(true);
            write!(all, " | {}", self.sequence(nested)?).expect("strings take all text");
        }
        Ok(all)
    }

    fn sequence(&mut self, nested: bool) -> Result<String, String> {
        let mut items: Vec<String> = vec![];
        loop {
            let item = match self.rest.chars().next() {
                Some('"') => self.literal()?,
                Some('[') => self.class()?,
                Some('.') => {
                    self.next();
                    "/(?s:.)/".to_owned()
                }
                Some('(') => {
                    self.next();
                    self.space(true);
                    self.depth += 1;
                    if self.depth > MAX_GRAMMAR_DEPTH {
                        return self.error(&format!("more than {MAX_GRAMMAR_DEPTH} open brackets"));
                    }
                    let inner = self.alternatives(true)?;
                    self.depth -= 1;
                    if !self.take(")") {
                        return self.error("expected )");
                    }
                    format!("({inner})")
                }
                Some('<' | '!') => return self.error("tokens are not supported; found one"),
                Some('*' | '+' | '?' | '{') => {
                    return self.error("there is nothing to repeat");
                }
                _ => match self.name() {
                    Some(name) => format!("r{}", self.id(name)),
                    None => break,
                },
            };
            items.push(self.repeated(item)?);
            self.space(nested);
        }
        // A rule of the next line is not a part of this one.
        Ok(if items.is_empty() { "\"\"".to_owned() } else { items.join(" ") })
    }

    /// The item with the repetition that follows it.
    fn repeated(&mut self, item: String) -> Result<String, String> {
        let Some(operator @ ('*' | '+' | '?' | '{')) = self.rest.chars().next() else {
            return Ok(item);
        };
        if operator != '{' {
            self.next();
            return Ok(format!("({item}){operator}"));
        }
        let Some((counts, rest)) = self.rest[1..].split_once('}') else {
            return self.error("expected }");
        };
        let parts: Vec<&str> = counts.split(',').map(str::trim).collect();
        // `parse` takes a sign, which the check of counts does not know.
        let is_count = |part: &&str| part.bytes().all(|byte| byte.is_ascii_digit());
        let number = |part: &str| Some(part).filter(is_count)?.parse::<u32>().ok();
        let (low, high) = match parts[..] {
            [exact] => (number(exact), number(exact)),
            ["", high] => (Some(0), number(high)),
            [low, ""] => (number(low), Some(u32::MAX)),
            [low, high] => (number(low), number(high)),
            _ => (None, None),
        };
        let (Some(low), Some(high)) = (low, high) else {
            return self.error("expected {m}, {m,}, {,n} or {m,n}");
        };
        if low > high {
            return self.error("expected counts that ascend");
        }
        self.rest = rest;
        let high = if high == u32::MAX { String::new() } else { high.to_string() };
        Ok(format!("({item}){{{low},{high}}}"))
    }

    fn literal(&mut self) -> Result<String, String> {
        self.next();
        let mut items = vec![];
        loop {
            match self.next() {
                None | Some('\n') => return self.error("expected \" before this"),
                Some('"') => break,
                Some('\\') => items.push(format!("/{}/", point(self.escape()?))),
                Some(c) => items.push(format!("/{}/", point(c))),
            }
        }
        Ok(if items.is_empty() { "\"\"".to_owned() } else { format!("({})", items.join(" ")) })
    }

    fn class(&mut self) -> Result<String, String> {
        self.next();
        let mut class = String::from("/[");
        if self.take("^") {
            class.push('^');
        }
        let start = class.len();
        while !self.take("]") {
            let first = self.class_char()?;
            class.push_str(&point(first));
            if self.rest.starts_with('-') && !self.rest.starts_with("-]") {
                self.next();
                let last = self.class_char()?;
                if last < first {
                    return self.error("expected a range that ascends");
                }
                write!(class, "-{}", point(last)).expect("strings take all text");
            }
        }
        if class.len() == start {
            return self.error("expected a character in the class before this");
        }
        class.push_str("]/");
        Ok(class)
    }

    fn class_char(&mut self) -> Result<char, String> {
        match self.next() {
            None | Some('\n') => self.error("expected ] before this"),
            Some('\\') => self.escape(),
            Some(c) => Ok(c),
        }
    }

    fn escape(&mut self) -> Result<char, String> {
        let digits = match self.next() {
            Some('n') => return Ok('\n'),
            Some('r') => return Ok('\r'),
            Some('t') => return Ok('\t'),
            Some(c @ ('"' | '\\' | '[' | ']' | '-' | '^' | '/' | '\'' | '.')) => return Ok(c),
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            _ => return self.error("unknown escape before this"),
        };
        let code = self.rest.get(..digits).and_then(|code| u32::from_str_radix(code, 16).ok());
        match code.and_then(char::from_u32) {
            Some(c) => {
                self.rest = &self.rest[digits..];
                Ok(c)
            }
            None => self.error(&format!("expected {digits} hexadecimal digits of a character")),
        }
    }
}

/// A character in a regular expression.
fn point(c: char) -> String {
    format!("\\u{{{:x}}}", u32::from(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_translated() {
        let gbnf = "# a list\nroot ::= item (\",\" item)* # more\nitem ::= [a-c] | \"\\x41\"\n | .";
        let lark = to_lark(gbnf);
        // The alternative on a line of its own is not part of the rule before.
        assert!(lark.unwrap_err().contains("line 4"));
        let lark = to_lark("root ::= it-em{2,3} |\n  \"\"\nit-em ::= [^\\]-] (\n\"a\" )?").unwrap();
        assert_eq!(
            lark,
            "start: r0\nr0: (r1){2,3} | \"\"\nr1: /[^\\u{5d}\\u{2d}]/ (((/\\u{61}/)))?\n"
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let cases = [
            ("", "no rule named root"),
            ("x ::= \"a\"", "no rule named root"),
            ("root ::= a", "the rule a is used and not defined"),
            ("root ::= \"a", "expected \""),
            ("\n\nroot = \"a\"", "line 3: expected ::="),
            ("root ::= [", "expected ]"),
            ("root ::= []", "expected a character"),
            ("root ::= [z-a]", "ascends"),
            ("root ::= (\"a\"", "expected )"),
            ("root ::= \"a\"{3,1}", "ascend"),
            ("root ::= \"a\"{x}", "expected {m}"),
            ("root ::= *", "nothing to repeat"),
            ("root ::= \"\\q\"", "unknown escape"),
            ("root ::= \"\\ud800\"", "hexadecimal digits"),
            ("root ::= <think>", "tokens are not supported"),
            ("root ::= \"a\"\nroot ::= \"b\"", "defined twice"),
            ("root ::= \"a\" )", "the end of the rule"),
        ];
        for (gbnf, problem) in cases {
            let error = to_lark(gbnf).unwrap_err();
            assert!(error.contains(problem), "{gbnf:?}: {error}");
        }
    }
}
