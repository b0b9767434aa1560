//! However the text of an answer is cut, its stream put together is the collected answer, in every
//! dialect: the same parts in the same order.

use host::text::output::Tool;
use host::text::{OutputParser, OutputSettings, ReasoningFormat, ThinkMarkers, ToolFormat};
use serde_json::{Value, json};

use super::chat::{Chat, Head};
use super::messages::tell::Message;
use super::responses::tell::Response;
use crate::answer::Update;
use crate::output::Piece;
use crate::stream::{Choice, Frames, Teller, Totals};

/// Answers as models write them: the name of the format, and the text.
const ANSWERS: &[(&str, &str)] = &[
    (
        "hermes",
        "<think>hm é</think>I look.\n<tool_call>\n{\"name\": \"get\", \"arguments\": {\"a\": \"ü\"}}\n\
         </tool_call>\nAnd then.\n<tool_call>{\"name\": \"get\", \"arguments\": {}}</tool_call> Done.",
    ),
    ("hermes", "<tool_call>{\"name\": \"get\", \"arguments\": {\"a\": \"cut o"),
    ("hermes", "\n<think>\nonly thoughts"),
    ("llama3", "{\"name\": \"get\", \"parameters\": {\"a\": \"x\"}} and text"),
    (
        "harmony",
        "<|channel|>analysis<|message|>First.<|end|><|start|>assistant<|channel|>commentary<|message|>I \
         look.<|end|><|start|>assistant<|channel|>analysis<|message|>Second.<|end|><|start|>assistant\
         <|channel|>commentary to=functions.get <|constrain|>json<|message|>{\"a\":\"x\"}<|call|><|start|>\
         assistant<|channel|>final<|message|>Done.",
    ),
    ("none", "<think>a</think>\n\nb <think>c</think>"),
];

/// The updates of an answer whose text comes in these parts.
fn updates(format: &str, parts: &[&str]) -> Vec<Update> {
    let format = ToolFormat::named(format).unwrap();
    let tools = vec![Tool { name: "get".to_owned(), parameters: Value::Null }];
    let reasoning = ThinkMarkers::choose(ReasoningFormat::DeepSeek, "", format);
    let settings = OutputSettings { format, tools, reasoning, reasoning_opened: false };
    let mut parser = OutputParser::new(settings);
    let mut all: Vec<Vec<Piece>> = parts.iter().map(|part| parser.push(part)).collect();
    all.push(parser.finish());
    let update = |pieces: Vec<Piece>| {
        let pieces = pieces.into_iter().map(with_id).collect();
        Update { pieces, ..Update::default() }
    };
    all.into_iter().map(update).collect()
}

fn with_id(piece: Piece) -> Piece {
    match piece {
        Piece::ToolStart { index, name, .. } => {
            Piece::ToolStart { index, id: Some(format!("call_{index}")), name }
        }
        piece => piece,
    }
}

/// The stream's events, and the answer in one piece.
fn told(mut stream: impl Teller, whole: impl Teller, updates: &[Update]) -> (Vec<Value>, Value) {
    let (mut frames, mut choice) = (Frames::default(), Choice::default());
    stream.open(&mut frames);
    for update in updates {
        stream.update(update, &mut frames);
        choice.take(update.clone());
    }
    stream.close(&Totals::default(), &mut frames);
    let data = frames.text().lines().filter_map(|line| line.strip_prefix("data: "));
    let events = data.filter_map(|data| serde_json::from_str(data).ok()).collect();
    (events, whole.whole(&[choice], &Totals::default()))
}

/// Adds text to a string of JSON.
fn add(value: &mut Value, text: &Value) {
    *value = json!(value.as_str().unwrap_or_default().to_owned() + text.as_str().unwrap());
}

/// The content of a message as a client of Anthropic's puts it together.
fn blocks(events: &[Value]) -> Value {
    let (mut blocks, mut inputs) = (vec![], vec![]);
    for event in events {
        let index = event["index"].as_u64().unwrap_or_default() as usize;
        match event["type"].as_str().unwrap() {
            "content_block_start" => {
                assert_eq!(index, blocks.len());
                blocks.push(event["content_block"].clone());
                inputs.push(String::new());
            }
            "content_block_delta" => {
                let delta = &event["delta"];
                match delta["type"].as_str().unwrap() {
                    "text_delta" => add(&mut blocks[index]["text"], &delta["text"]),
                    "thinking_delta" => add(&mut blocks[index]["thinking"], &delta["thinking"]),
                    "signature_delta" => blocks[index]["signature"] = delta["signature"].clone(),
                    "input_json_delta" => {
                        inputs[index].push_str(delta["partial_json"].as_str().unwrap());
                    }
                    other => panic!("{other}"),
                }
            }
            _ => {}
        }
    }
    for (block, input) in blocks.iter_mut().zip(&inputs).filter(|(_, input)| !input.is_empty()) {
        // clients read the head of an object so too
        let input = host::text::output::complete_json(input);
        block["input"] = serde_json::from_str(&input).unwrap();
    }
    json!(blocks)
}

/// The output of a response as a client of OpenAI's puts it together, without its random ids.
fn items(events: &[Value]) -> Value {
    let mut items: Vec<Value> = vec![];
    for event in events {
        let index = event["output_index"].as_u64().unwrap_or_default() as usize;
        match event["type"].as_str().unwrap() {
            "response.output_item.added" => {
                assert_eq!(index, items.len());
                items.push(event["item"].clone());
            }
            "response.content_part.added" => items[index]["content"] = json!([event["part"]]),
            "response.output_text.delta" | "response.reasoning_text.delta" => {
                add(&mut items[index]["content"][0]["text"], &event["delta"]);
            }
            "response.function_call_arguments.delta" => {
                add(&mut items[index]["arguments"], &event["delta"]);
            }
            "response.output_item.done" => items[index]["status"] = event["item"]["status"].clone(),
            _ => {}
        }
    }
    without_ids(json!(items))
}

fn without_ids(mut output: Value) -> Value {
    for item in output.as_array_mut().unwrap() {
        item.as_object_mut().unwrap().remove("id");
    }
    output
}

/// The message of a chat as a client of OpenAI's puts it together.
fn message(events: &[Value]) -> Value {
    let mut message = json!({"content": ""});
    for delta in events.iter().filter_map(|event| event["choices"].get(0)).map(|c| &c["delta"]) {
        for name in ["content", "reasoning_content"] {
            if delta[name].is_string() {
                add(&mut message[name], &delta[name]);
            }
        }
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let index = call["index"].as_u64().unwrap() as usize;
            if call.get("id").is_some() {
                let mut call = call.clone();
                call.as_object_mut().unwrap().remove("index");
                let calls =
                    message.as_object_mut().unwrap().entry("tool_calls").or_insert(json!([]));
                assert_eq!(index, calls.as_array().unwrap().len());
                calls.as_array_mut().unwrap().push(call);
            } else {
                let arguments = &mut message["tool_calls"][index]["function"]["arguments"];
                add(arguments, &call["function"]["arguments"]);
            }
        }
    }
    message
}

/// Compares both ways of all dialects; gives the collected answers.
fn compare(format: &str, parts: &[&str]) -> Value {
    let updates = updates(format, parts);
    let teller = || Message::new("m".into(), "m".into(), 1);
    let (events, anthropic) = told(teller(), teller(), &updates);
    assert_eq!(blocks(&events), anthropic["content"], "{format}: {parts:?}");
    assert_eq!(events[events.len() - 2]["delta"]["stop_reason"], anthropic["stop_reason"]);
    let teller = || Response::new(json!({}));
    let (events, response) = told(teller(), teller(), &updates);
    let output = without_ids(response["output"].clone());
    assert_eq!(items(&events), output, "{format}: {parts:?}");
    let last = &events.last().unwrap()["response"]["output"];
    assert_eq!(without_ids(last.clone()), output, "{format}: {parts:?}");
    let teller = || Chat::new(Head::new("c", "m".into()), 1, false, false);
    let (events, chat) = told(teller(), teller(), &updates);
    let (streamed, whole) = (message(&events), &chat["choices"][0]["message"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for name in ["content", "reasoning_content"] {
        assert_eq!(text(&streamed[name]), text(&whole[name]), "{format}: {parts:?}");
    }
    assert_eq!(streamed.get("tool_calls"), whole.get("tool_calls"), "{format}: {parts:?}");
    json!([anthropic["content"], output, whole])
}

#[test]
fn a_stream_put_together_is_the_collected_answer_wherever_it_was_cut() {
    for (format, text) in ANSWERS {
        let whole = compare(format, &[text]);
        let places: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        for at in &places {
            assert_eq!(
                compare(format, &[&text[..*at], &text[*at..]]),
                whole,
                "{format}: cut at {at}"
            );
        }
        let single: Vec<&str> = text.split_inclusive(|_| true).collect();
        assert_eq!(compare(format, &single), whole, "{format}");
    }
}

#[test]
fn blocks_keep_the_order_in_which_they_came() {
    let kinds = |(format, text): (&str, &str)| {
        let whole = compare(format, &[text]);
        let kinds = |list: &Value| -> Vec<String> {
            let list = list.as_array().unwrap().iter();
            list.map(|block| block["type"].as_str().unwrap().to_owned()).collect()
        };
        (kinds(&whole[0]).join(" "), kinds(&whole[1]).join(" "))
    };
    let (anthropic, openai) = kinds(ANSWERS[0]);
    assert_eq!(anthropic, "thinking text tool_use text tool_use text");
    assert_eq!(openai, "reasoning message function_call message function_call message");
    let (anthropic, openai) = kinds(ANSWERS[4]);
    assert_eq!(anthropic, "thinking text thinking tool_use text");
    assert_eq!(openai, "reasoning message reasoning function_call message");
}
