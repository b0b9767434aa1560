use std::sync::Arc;

use serde_json::json;

use super::super::tests::{Draw, generate};
use super::super::{GrammarSpec, Grammars};
use super::*;
use crate::text::output::{OutputParser, OutputSettings, Piece};
use crate::text::testing;

fn tools() -> Vec<Tool> {
    let add = json!({"type": "object", "additionalProperties": false,
        "properties": {"a": {"type": "integer"}, "note": {"type": "string", "maxLength": 6}},
        "required": ["a"]});
    let find = json!({"type": "object", "additionalProperties": false, "properties": {
        "unit": {"enum": ["C", "F \"x\""]}, "flag": {"type": "boolean"},
        "list": {"type": "array", "maxItems": 2, "items": {"type": "integer"}}}});
    let tool = |name: &str, parameters| Tool { name: name.to_owned(), parameters };
    vec![tool("add", add), tool("find.it", find)]
}

/// The calls that the parser reads in a text and nothing else: names and arguments.
fn calls(format: ToolFormat, text: &str) -> Vec<(String, String)> {
    let (calls, content) = read(format, text);
    assert!(content.is_empty(), "{} left {content:?} over", format.name());
    calls
}

/// The calls that the parser reads in a text, and its content.
fn read(format: ToolFormat, text: &str) -> (Vec<(String, String)>, String) {
    let settings =
        OutputSettings { format, tools: tools(), reasoning: None, reasoning_opened: false };
    let mut parser = OutputParser::new(settings);
    let pieces = [parser.push(text), parser.finish()].concat();
    let (mut calls, mut content) = (vec![], String::new());
    for piece in pieces {
        match piece {
            Piece::ToolStart { name, .. } => calls.push((name, String::new())),
            Piece::ToolArguments { index, fragment } => calls[index].1.push_str(&fragment),
            Piece::Content(text) => content.push_str(&text),
            Piece::Reasoning(_) => {}
        }
    }
    (calls, content)
}

#[test]
fn every_format_has_a_grammar() {
    for name in ToolFormat::names().filter(|name| *name != "none") {
        assert!(ENVELOPES.iter().any(|envelope| envelope.format == name), "{name}");
    }
}

/// Whatever the logits, an enforced answer is calls that the parser reads and the schemas allow.
#[test]
fn random_answers_are_valid_calls_in_every_format() {
    for (format, vocabulary) in ToolFormat::names().filter(|name| *name != "none").map(|name| {
        (ToolFormat::named(name).unwrap(), if name == "gemma4" { "gemma-4" } else { "smollm2" })
    }) {
        let tokenizer = testing::tokenizer(vocabulary);
        let grammars = Grammars::new(tokenizer.clone());
        for (choice, parallel) in
            [(ToolChoice::Required, true), (ToolChoice::Named("add".to_owned()), false)]
        {
            let found = grammar(&tools(), &choice, parallel, format, &tokenizer).unwrap().unwrap();
            let spec = GrammarSpec::ToolCalls(found);
            let constraint = grammars.compile(&spec).unwrap();
            let mut whole = 0;
            for seed in 0..6 {
                let Some(text) =
                    generate(&tokenizer, constraint.clone(), 300, Draw { seed, spelled: true })
                else {
                    continue;
                };
                whole += 1;
                let calls = calls(format, &text);
                assert!(!calls.is_empty(), "{text}");
                assert!(parallel || calls.len() == 1, "{text}");
                for (name, arguments) in calls {
                    let tool = tools().into_iter().find(|tool| tool.name == name).unwrap();
                    assert!(choice == ToolChoice::Required || name == "add");
                    let arguments: Value = serde_json::from_str(&arguments).expect(&arguments);
                    let envelope =
                        ENVELOPES.iter().find(|row| row.format == format.name()).unwrap();
                    let short = !matches!(envelope.arguments, Notation::Json);
                    let mut schema = tool.parameters;
                    if short && name == "add" {
                        // Lengths are not enforced there.
                        schema["properties"]["note"] = json!({"type": "string"});
                    }
                    let valid = jsonschema::is_valid(&schema, &arguments);
                    assert!(valid, "{}: {arguments} in {text}", format.name());
                }
            }
            assert!(whole > 0, "{}: no answer came to its end", format.name());
        }
    }
}

/// Whatever the logits, an answer is calls or text of the other grammar, and both ways are open.
#[test]
fn random_answers_are_calls_or_text_of_the_other_grammar() {
    let schema = json!({"type": "object", "additionalProperties": false, "required": ["z"],
        "properties": {"z": {"enum": ["p", "q"]}}});
    let others = [
        GrammarSpec::JsonSchema(schema.clone()),
        GrammarSpec::Regex("[xyz]{1,3}/".to_owned()),
        GrammarSpec::Gbnf("root ::= \"ab\" | \"abc\"".to_owned()),
        GrammarSpec::Lark("start: A+\nA: \"o\"".to_owned()),
        GrammarSpec::Choice(vec!["one".to_owned(), "two".to_owned()]),
    ];
    let shape = regex::Regex::new("^([xyz]{1,3}/|abc?|o+|one|two)$").unwrap();
    for (format, vocabulary) in ToolFormat::names().filter(|name| *name != "none").map(|name| {
        (ToolFormat::named(name).unwrap(), if name == "gemma4" { "gemma-4" } else { "smollm2" })
    }) {
        let tokenizer = testing::tokenizer(vocabulary);
        let grammars = Grammars::new(tokenizer.clone());
        let (mut called, mut said) = (0, 0);
        for other in &others {
            let calls =
                super::calls(&tools(), &ToolChoice::Auto, true, format, &tokenizer).unwrap();
            let spec = GrammarSpec::CallsOr(calls, Box::new(other.clone()));
            let constraint = grammars.compile(&spec).unwrap();
            for seed in 0..10 {
                let draw = Draw { seed, spelled: true };
                let Some(text) = generate(&tokenizer, constraint.clone(), 300, draw) else {
                    continue;
                };
                let (calls, content) = read(format, &text);
                assert!(calls.is_empty() != content.is_empty(), "{}: {text:?}", format.name());
                called += usize::from(content.is_empty());
                said += usize::from(calls.is_empty());
                let json = serde_json::from_str::<Value>(&content);
                let valid = json.is_ok_and(|value| jsonschema::is_valid(&schema, &value));
                let valid = valid || shape.is_match(&content) || content.is_empty();
                assert!(valid, "{}: {content:?} in {text:?}", format.name());
            }
        }
        assert!(called > 0 && said > 0, "{}: {called} called, {said} said", format.name());
    }
}

#[test]
fn choices_that_cannot_be_met_are_refused() {
    let tokenizer: Arc<Tokenizer> = testing::tokenizer("smollm2");
    let hermes = ToolFormat::named("hermes").unwrap();
    let refused = |tools: &[Tool], choice, format| {
        grammar(tools, &choice, true, format, &tokenizer).unwrap_err().to_string()
    };
    let named = ToolChoice::Named("rm".to_owned());
    assert!(refused(&tools(), named, hermes).contains("\"rm\" is not the name"));
    assert!(refused(&[], ToolChoice::Required, hermes).contains("no tools"));
    assert!(refused(&tools(), ToolChoice::Required, ToolFormat::NONE).contains("no tool calls"));
    let many = vec![tools()[0].clone(); MAX_TOOLS + 1];
    assert!(refused(&many, ToolChoice::Required, hermes).contains("at most 128"));
    let list = Tool { name: "x".to_owned(), parameters: json!({"type": "array"}) };
    assert!(refused(&[list], ToolChoice::Required, hermes).contains("expected \"object\""));
    let odd = Tool { name: "a\"b".to_owned(), parameters: Value::Null };
    assert!(refused(&[odd], ToolChoice::Required, hermes).contains("cannot be the name"));
    let coder = ToolFormat::named("qwen3-coder").unwrap();
    let odd = json!({"properties": {"a>b": {"type": "string"}}});
    let odd = Tool { name: "x".to_owned(), parameters: odd };
    assert!(refused(&[odd], ToolChoice::Required, coder).contains("\"a>b\""));
    // Every parameter would take the definitions along.
    let parameters: serde_json::Map<String, Value> =
        (0..500).map(|n| (format!("p{n}"), json!({"$ref": "#/$defs/d"}))).collect();
    let big = json!({"properties": parameters, "$defs": {"d": {"description": "x".repeat(9000)}}});
    let big = Tool { name: "x".to_owned(), parameters: big };
    assert!(refused(&[big], ToolChoice::Required, coder).contains("size in bytes"));
    for free in [ToolChoice::Auto, ToolChoice::None] {
        assert_eq!(grammar(&tools(), &free, true, hermes, &tokenizer), Ok(None));
    }
}
