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

/// The calls that the parser reads in a text: names and arguments.
fn calls(format: ToolFormat, text: &str) -> Vec<(String, String)> {
    let settings =
        OutputSettings { format, tools: tools(), reasoning: None, reasoning_opened: false };
    let mut parser = OutputParser::new(settings);
    let pieces = [parser.push(text), parser.finish()].concat();
    let mut calls = vec![];
    for piece in pieces {
        match piece {
            Piece::ToolStart { name, .. } => calls.push((name, String::new())),
            Piece::ToolArguments { index, fragment } => calls[index].1.push_str(&fragment),
            Piece::Content(text) => panic!("{} left {text:?} over", format.name()),
            Piece::Reasoning(_) => {}
        }
    }
    calls
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
                    let short = ["qwen3-coder", "gemma4"].contains(&format.name());
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
    for free in [ToolChoice::Auto, ToolChoice::None] {
        assert_eq!(grammar(&tools(), &free, true, hermes, &tokenizer), Ok(None));
    }
}
