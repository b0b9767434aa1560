//! `post_processor` of `tokenizer.json`: the ids before and after a prompt.
//!
//! Read here and not run by the crate, which takes for granted that templates name only what they
//! define.

use serde_json::Value;

/// Ids around a prompt.
#[derive(Debug, Default)]
pub(super) struct Frame {
    /// Before it, the last first: each post-processor wraps what those before it made.
    before: Vec<u32>,
    after: Vec<u32>,
}

impl Frame {
    /// Reads a post-processor for a vocabulary of `vocab_size` tokens.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(json: &Value, vocab_size: usize) -> Result<Self, String> {
        let mut frame = Self::default();
        frame.wrap(json)?;
        match frame.before.iter().chain(&frame.after).find(|id| **id as usize >= vocab_size) {
            Some(id) => Err(format!("adds the id {id}, the vocabulary has {vocab_size} tokens")),
            None => Ok(frame),
        }
    }

    /// Ids before and after.
    pub(super) fn into_parts(mut self) -> (Vec<u32>, Vec<u32>) {
        self.before.reverse();
        (self.before, self.after)
    }

    fn wrap(&mut self, json: &Value) -> Result<(), String> {
        match json.get("type").and_then(Value::as_str).unwrap_or("") {
            "ByteLevel" => {}
            "Sequence" => {
                for processor in array(json, "processors")? {
                    self.wrap(processor)?;
                }
            }
            "BertProcessing" | "RobertaProcessing" => {
                self.before.push(id(json.pointer("/cls/1"), "cls")?);
                self.after.push(id(json.pointer("/sep/1"), "sep")?);
            }
            "TemplateProcessing" => self.wrap_template(json)?,
            other => {
                let known =
                    "BertProcessing, ByteLevel, RobertaProcessing, Sequence, TemplateProcessing";
                return Err(format!("has the type {other:?}; known: {known}"));
            }
        }
        Ok(())
    }

    /// `single`: special tokens by name, and the sequence A once.
    fn wrap_template(&mut self, json: &Value) -> Result<(), String> {
        let (mut before, mut after, mut sequences) = (vec![], vec![], 0);
        for piece in array(json, "single")? {
            if let Some(name) = piece.pointer("/SpecialToken/id").and_then(Value::as_str) {
                let token = json.get("special_tokens").and_then(|tokens| tokens.get(name));
                let token = token
                    .ok_or_else(|| format!("names {name:?}, which special_tokens does not hold"))?;
                let ids = array(token, "ids")?.iter().map(|value| id(Some(value), name));
                let ids = ids.collect::<Result<Vec<u32>, _>>()?;
                if sequences == 0 { &mut before } else { &mut after }.extend(ids);
            } else if piece.pointer("/Sequence/id").and_then(Value::as_str) == Some("A") {
                sequences += 1;
            } else {
                return Err(format!(
                    "has {piece} in single, expected a SpecialToken or Sequence A"
                ));
            }
        }
        if sequences != 1 {
            return Err(format!("holds {sequences} times Sequence A in single, expected once"));
        }
        self.before.extend(before.iter().rev());
        self.after.extend(after);
        Ok(())
    }
}

fn array<'a>(json: &'a Value, key: &str) -> Result<&'a [Value], String> {
    let array = json.get(key).and_then(Value::as_array);
    array.map(Vec::as_slice).ok_or_else(|| format!("has no array {key}"))
}

fn id(value: Option<&Value>, of: &str) -> Result<u32, String> {
    let id = value.and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
    id.ok_or_else(|| format!("has no id for {of:?}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template(single: &Value) -> Value {
        let both = json!({"id": "both", "ids": [3, 4], "tokens": ["x", "y"]});
        json!({"type": "TemplateProcessing", "single": single, "pair": [],
            "special_tokens": {"both": both, "one": {"id": "one", "ids": [2], "tokens": ["z"]}}})
    }

    fn special(name: &str) -> Value {
        json!({"SpecialToken": {"id": name, "type_id": 0}})
    }

    fn sequence(name: &str) -> Value {
        json!({"Sequence": {"id": name, "type_id": 0}})
    }

    #[test]
    fn each_wraps_what_came_before() {
        let inner =
            template(&json!([special("both"), special("one"), sequence("A"), special("both")]));
        let outer = json!({"type": "RobertaProcessing", "sep": ["</s>", 1], "cls": ["<s>", 0],
            "trim_offsets": true, "add_prefix_space": true});
        let all = json!({"type": "Sequence", "processors": [{"type": "ByteLevel"}, inner, outer]});
        let (before, after) = Frame::read(&all, 5).unwrap().into_parts();
        assert_eq!((before, after), (vec![0, 3, 4, 2], vec![3, 4, 1]));
    }

    #[test]
    fn what_the_crate_would_panic_at_is_refused() {
        for (json, says) in [
            (template(&json!([sequence("B")])), "expected a SpecialToken or Sequence A"),
            (template(&json!([sequence("A"), special("two")])), "names \"two\""),
            (template(&json!([sequence("A"), sequence("A")])), "2 times Sequence A"),
            (template(&json!([special("one")])), "0 times Sequence A"),
            (template(&json!([sequence("A"), special("both")])), "adds the id 3"),
            (json!({"type": "BertProcessing", "sep": ["x", 0]}), "no id for \"cls\""),
            (json!({"type": "Sequence"}), "has no array processors"),
            (json!({"single": []}), "has the type \"\""),
        ] {
            let error = Frame::read(&json, 3).unwrap_err();
            assert!(error.contains(says), "{error:?} does not say {says:?}");
        }
    }
}
