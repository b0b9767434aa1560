//! Transcripts of every format, as the families' chat templates write them, cut in every way.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::text::{ChatInput, ChatTemplate, DetokenStream, testing};

/// `+` content, `~` reasoning, `@name` a call and `=` its arguments.
type Expected = &'static [&'static str];

struct Case {
    format: &'static str,
    template: &'static str,
    text: &'static str,
    expected: Expected,
}

const fn case(format: &'static str, text: &'static str, expected: Expected) -> Case {
    Case { format, template: "</think>", text, expected }
}

const CASES: &[Case] = &[
    case("none", "a <tool_call> b", &["+a <tool_call> b"]),
    case("none", "<think>\nwhy < 3\n</think>\n\nfour", &["~why < 3", "+four"]),
    case("none", " <think>cut", &["~cut"]),
    case("none", "<thin air", &["+<thin air"]),
    case("none", "not first <think>x</think>", &["+not first <think>x</think>"]),
    case(
        "hermes",
        "<think>\nLet me.\n</think>\n\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": [2]}}\n</tool_call>\n<tool_call>\n{\"arguments\": {\"q\": \"}\"}, \"name\": \"find\"}\n</tool_call>",
        &["~Let me.", "@add", "={\"a\": 1, \"b\": [2]}", "@find", "={\"q\":\"}\"}"],
    ),
    case(
        "hermes",
        "First.\n\n<tool_call>{\"name\":\"find\",\"arguments\":{\"q\":\"é\\\"</tool_call>\"}}</tool_call>\n Then.",
        &["+First.", "@find", "={\"q\":\"é\\\"</tool_call>\"}", "+Then."],
    ),
    // Nobody offered it; no JSON; another marker behind a false one.
    case(
        "hermes",
        "<tool_call>{\"name\":\"rm\",\"arguments\":{}}</tool_call>",
        &["+<tool_call>{\"name\":\"rm\",\"arguments\":{}}</tool_call>"],
    ),
    case("hermes", "use <tool_call> tags <tool_", &["+use <tool_call> tags <tool_"]),
    case(
        "hermes",
        "<tool_call> <tool_call>{\"name\":\"add\"}</tool_call>",
        &["+<tool_call>", "@add", "={}"],
    ),
    // A newline in a string, a missing bracket, and a cut.
    case(
        "hermes",
        "<tool_call>{\"name\":\"find\",\"arguments\":{\"q\":\"a\nb\"}</tool_call>x",
        &["@find", "={\"q\":\"a\\nb\"}", "+x"],
    ),
    case(
        "hermes",
        "<tool_call>{\"name\":\"find\",\"arguments\":{\"q\":\"a\\",
        &["@find", "={\"q\":\"a\\"],
    ),
    case(
        "hermes",
        "<tool_call>{\"name\":\"find\",\"arguments\":{\"q\": oops}}</tool_call>",
        &["@find", "={\"q\": null}", "+oops}}</tool_call>"],
    ),
    case("hermes", "<tool_call>{\"name\":\"fi", &["+<tool_call>{\"name\":\"fi"]),
    case(
        "hermes",
        "<tool_call>{\"name\":\"add\",\"arguments\":\"{\\\"a\\\":1}\"}</tool_call>",
        &["@add", "={\"a\":1}"],
    ),
    case(
        "llama3",
        "{\"name\": \"add\", \"parameters\": {\"a\": 1}}; {\"name\": \"find\", \"parameters\": {}}",
        &["@add", "={\"a\": 1}", "@find", "={}"],
    ),
    case(
        "llama3",
        "<|python_tag|>{\"type\": \"function\", \"name\": \"add\", \"parameters\": {\"a\": 1}}",
        &["@add", "={\"a\": 1}"],
    ),
    case("llama3", "<|python_tag|>print(1)", &["+print(1)"]),
    case("llama3", "\n{\"answer\": 42}", &["+\n{\"answer\": 42}"]),
    case("llama3", "Say {\"name\": \"add\"}", &["+Say {\"name\": \"add\"}"]),
    case(
        "mistral",
        "Ok. [TOOL_CALLS][{\"name\": \"add\", \"arguments\": {\"a\": 1}, \"id\": \"abc\"}, {\"id\": \"9\", \"name\": \"find\", \"arguments\": {}}]",
        &["+Ok.", "@add", "={\"a\": 1}", "@find#9", "={}"],
    ),
    case(
        "mistral",
        "[TOOL_CALLS]add[ARGS]{\"a\": 1}[TOOL_CALLS]find[CALL_ID]abc123[ARGS]{\"q\": \"]\"}",
        &["@add", "={\"a\": 1}", "@find#abc123", "={\"q\": \"]\"}"],
    ),
    case("mistral", "[TOOL_CALLS]add{\"a\": 1}", &["@add", "={\"a\": 1}"]),
    case("mistral", "a [TOOL_CALLS] of two words", &["+a  of two words"]),
    case(
        "qwen3-coder",
        "Now.\n<tool_call>\n<function=find>\n<parameter=q>\nline 1\n</param\n\n</parameter>\n<parameter=n>\n3\n</parameter>\n<parameter=deep>\n{\"x\": [1]}\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=add>\n</function>\n</tool_call>",
        &[
            "+Now.",
            "@find",
            "={\"q\": \"line 1\\n</param\\n\", \"n\": 3, \"deep\": {\"x\": [1]}}",
            "@add",
            "={}",
        ],
    ),
    case(
        "qwen3-coder",
        "<function=find><parameter=flag>True</parameter><parameter=n>many</parameter><parameter=other>1</parameter></function>",
        &["@find", "={\"flag\": true, \"n\": \"many\", \"other\": \"1\"}"],
    ),
    case(
        "qwen3-coder",
        "<tool_call><function=find><parameter=q>cut \"off",
        &["@find", "={\"q\": \"cut \\\"off"],
    ),
    case("qwen3-coder", "<tool_call> <functio", &["+<tool_call> <functio"]),
    case(
        "gemma",
        "```tool_code\n{\"name\": \"add\", \"parameters\": {\"a\": 1}}\n```",
        &["@add", "={\"a\": 1}"],
    ),
    case(
        "gemma",
        "```tool_code\n{\"name\": \"add\"}\n```\n```tool_code\n{\"name\": \"find\"}\n``` Done.",
        &["@add", "={}", "@find", "={}", "+Done."],
    ),
    case("gemma", "```json\n{\"a\": 1}\n```", &["+```json\n{\"a\": 1}\n```"]),
    Case {
        format: "gemma4",
        template: "<|channel>thought\n<channel|>",
        text: "<|channel>thought\nhm\n<channel|><|tool_call>call:find{q:<|\"|>a \"b\" {c\n<|\"|>,n:-2.5,deep:{x:[1,<|\"|>y<|\"|>]}}<tool_call|><|tool_call>call:add{}<tool_call|>",
        expected: &[
            "~hm",
            "@find",
            "={\"q\":\"a \\\"b\\\" {c\\n\",\"n\":-2.5,\"deep\":{\"x\":[1,\"y\"]}}",
            "@add",
            "={}",
        ],
    },
    case(
        "deepseek",
        "Sure.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{\"a\": 1}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>find\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        &["+Sure.", "@add", "={\"a\": 1}", "@find", "={}"],
    ),
    case(
        "deepseek",
        "<think>a</think><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>{\"a\": 1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        &["~a", "@add", "={\"a\": 1}"],
    ),
    case(
        "kimi-k2",
        "I look.<|tool_calls_section_begin|><|tool_call_begin|>functions.add:0<|tool_call_argument_begin|>{\"a\": 1}<|tool_call_end|><|tool_call_begin|> functions.find:1 <|tool_call_argument_begin|> {\"q\": \"<|\"}\n<|tool_call_end|><|tool_calls_section_end|>",
        &[
            "+I look.",
            "@add#functions.add:0",
            "={\"a\": 1}",
            "@find#functions.find:1",
            "={\"q\": \"<|\"}",
        ],
    ),
    case(
        "kimi-k2",
        "<|tool_call_begin|>functions.rm:0<|tool_call_argument_begin|>{}<|tool_call_end|>",
        &["+functions.rm:0{}"],
    ),
    case(
        "minimax-m2",
        "<think>a</think>\n\n<minimax:tool_call>\n<invoke name=\"find\">\n<parameter name=\"q\">a < \"b\"\nc</parameter>\n<parameter name=\"n\">3</parameter>\n</invoke>\n<invoke name=\"add\">\n</invoke>\n</minimax:tool_call>\nDone",
        &["~a", "@find", "={\"q\": \"a < \\\"b\\\"\\nc\", \"n\": 3}", "@add", "={}", "+Done"],
    ),
    case(
        "seed-oss",
        "\n<seed:tool_call>\n<function=find>\n<parameter=q>x</parameter>\n<parameter=flag>true</parameter>\n</function>\n</seed:tool_call>",
        &["@find", "={\"q\": \"x\", \"flag\": true}"],
    ),
    case(
        "glm-4.5",
        "<think>a</think>\nb\n<tool_call>find\n<arg_key>q</arg_key>\n<arg_value>3</arg_value>\n<arg_key>n</arg_key>\n<arg_value>3</arg_value>\n</tool_call>",
        &["~a", "+b", "@find", "={\"q\": \"3\", \"n\": 3}"],
    ),
    case(
        "glm-4.7",
        "<tool_call>add</tool_call><tool_call>find<arg_key>deep</arg_key><arg_value>{\"x\": []}</arg_value></tool_call>and",
        &["@add", "={}", "@find", "={\"deep\": {\"x\": []}}", "+and"],
    ),
    case(
        "glm-4.7",
        "<tool_call>find<arg_key>q</arg_key><arg_value>cu",
        &["@find", "={\"q\": \"cu"],
    ),
    case("glm-4.7", "<tool_call>find<arg_key>q</arg_key>no value", &["@find", "={}", "+qno value"]),
    case(
        "harmony",
        "<|channel|>analysis<|message|>Need < it.<|end|><|start|>assistant<|channel|>commentary<|message|>Looking.<|end|><|start|>assistant<|channel|>commentary to=functions.add <|constrain|>json<|message|>{\"a\":1}<|call|>",
        &["~Need < it.", "+Looking.", "@add", "={\"a\":1}"],
    ),
    case(
        "harmony",
        " to=functions.find<|channel|>commentary json<|message|>{\"q\":\"<|\"}",
        &["@find", "={\"q\":\"<|\"}"],
    ),
    case(
        "harmony",
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>4 <| 5<|return|>",
        &["~a", "+4 <| 5"],
    ),
    case("harmony", "plain words", &["+plain words"]),
    case("harmony", "<|channel|>fin", &["+fin"]),
];

fn settings(case: &Case, wanted: ReasoningFormat) -> OutputSettings {
    let format = ToolFormat::named(case.format).unwrap();
    let schema = json!({"type": "object", "properties": {
        "q": {"type": "string"}, "n": {"type": "integer"}, "flag": {"type": "boolean"},
        "deep": {"anyOf": [{"type": "object"}, {"type": "null"}]},
    }});
    let tool = |name: &str| Tool { name: name.to_owned(), parameters: schema.clone() };
    OutputSettings {
        format,
        tools: vec![tool("add"), tool("find")],
        reasoning: ThinkMarkers::choose(wanted, case.template, format),
        reasoning_opened: false,
    }
}

/// The pieces of a text given in parts, joined and in the notation of the table.
fn run(settings: OutputSettings, parts: &[&str]) -> Vec<String> {
    let mut parser = OutputParser::new(settings);
    let mut pieces: Vec<Piece> = parts.iter().flat_map(|part| parser.push(part)).collect();
    pieces.extend(parser.finish());
    let name = |piece: Piece| match piece {
        Piece::Content(text) => format!("+{text}"),
        Piece::Reasoning(text) => format!("~{text}"),
        Piece::ToolStart { name, id, .. } => {
            format!("@{name}{}", id.map(|id| format!("#{id}")).unwrap_or_default())
        }
        Piece::ToolArguments { fragment, .. } => format!("={fragment}"),
    };
    merge(pieces).into_iter().map(name).collect()
}

fn boundaries(text: &str) -> Vec<usize> {
    (0..=text.len()).filter(|at| text.is_char_boundary(*at)).collect()
}

#[test]
fn transcripts_are_read_whole_and_in_any_two_parts() {
    for case in CASES {
        let wanted = ReasoningFormat::Auto;
        let whole = run(settings(case, wanted), &[case.text]);
        assert_eq!(whole, case.expected, "{}: {}", case.format, case.text);
        for at in boundaries(case.text) {
            let (head, tail) = case.text.split_at(at);
            let parts = run(settings(case, wanted), &[head, tail]);
            assert_eq!(parts, whole, "{}: {head:?} + {tail:?}", case.format);
        }
        let single: Vec<&str> = case.text.split("").collect();
        assert_eq!(run(settings(case, wanted), &single), whole, "{}", case.format);
    }
}

/// Where an answer is cut off, its calls can still be completed, and their indices are dense.
#[test]
fn arguments_of_any_head_can_be_completed() {
    for case in CASES {
        for end in boundaries(case.text) {
            let mut parser = OutputParser::new(settings(case, ReasoningFormat::Auto));
            let mut calls: Vec<String> = vec![];
            let pieces = [parser.push(&case.text[..end]), parser.finish()].concat();
            for piece in pieces {
                match piece {
                    Piece::ToolStart { index, .. } => {
                        assert_eq!(index, calls.len());
                        calls.push(String::new());
                    }
                    Piece::ToolArguments { index, fragment } => calls[index].push_str(&fragment),
                    _ => {}
                }
            }
            for arguments in calls.iter().filter(|arguments| !arguments.is_empty()) {
                let whole = complete_json(arguments);
                let value: Value = serde_json::from_str(&whole).expect(&whole);
                assert!(value.is_object(), "{whole}");
            }
        }
    }
}

#[test]
fn no_control_marker_becomes_content() {
    for case in CASES.iter().filter(|case| case.format != "none") {
        let markers: Vec<&str> = match settings(case, ReasoningFormat::Auto).format.0 {
            Kind::Row(format) => format.control.to_vec(),
            _ => harmony::CONTROL.to_vec(),
        };
        for shown in run(settings(case, ReasoningFormat::Auto), &[case.text]) {
            let content = shown.strip_prefix('+').unwrap_or_default();
            assert!(!markers.iter().any(|marker| content.contains(marker)), "{content}");
        }
    }
}

#[test]
fn text_is_given_as_soon_as_it_is_sure() {
    let hermes = &CASES[5];
    let mut parser = OutputParser::new(settings(hermes, ReasoningFormat::None));
    assert_eq!(parser.push("a <"), [Piece::Content("a".to_owned())]);
    assert_eq!(parser.push("b"), [Piece::Content(" <b".to_owned())]);
    parser.push("<tool_call>{\"name\": \"add\", \"arguments\": ");
    let started = parser.push("{\"a\": \"x");
    let start = Piece::ToolStart { index: 0, id: None, name: "add".to_owned() };
    let fragment = Piece::ToolArguments { index: 0, fragment: "{\"a\": \"x".to_owned() };
    assert_eq!(started, [start, fragment]);
}

#[test]
fn reasoning_follows_its_format() {
    let case = case("none", "<think>a</think>b", &[]);
    assert_eq!(run(settings(&case, ReasoningFormat::None), &[case.text]), ["+<think>a</think>b"]);
    let silent = Case { template: "", ..case };
    assert_eq!(
        run(settings(&silent, ReasoningFormat::Auto), &[silent.text]),
        ["+<think>a</think>b"]
    );
    let told = settings(&silent, ReasoningFormat::DeepSeek);
    assert_eq!(run(told.clone(), &[silent.text]), ["~a", "+b"]);
    let opened = OutputSettings { reasoning_opened: true, ..told };
    assert_eq!(run(opened.clone(), &["a</think>", "\n\nb"]), ["~a", "+b"]);
    assert_eq!(run(opened, &["\n<think>\na", "\n</think>b"]), ["~a", "+b"]);
    let markers = ThinkMarkers::choose(ReasoningFormat::DeepSeek, "", ToolFormat::NONE).unwrap();
    assert!(markers.opened_by("<|im_start|>assistant\n<think>\n"));
    assert!(!markers.opened_by("<think>\n\n</think>\n\n"));
    let harmony = CASES.iter().find(|case| case.format == "harmony").unwrap();
    let raw = run(settings(harmony, ReasoningFormat::None), &[harmony.text]);
    assert_eq!(raw[0], "+<|channel|>analysis<|message|>Need < it.<|end|>Looking.");
    assert!("many".parse::<ReasoningFormat>().is_err());
}

#[test]
fn without_tools_nothing_is_a_call() {
    for case in CASES.iter().filter(|case| !matches!(case.format, "none" | "harmony")) {
        let plain = OutputSettings { tools: vec![], ..settings(case, ReasoningFormat::None) };
        assert_eq!(run(plain, &[case.text]), [format!("+{}", case.text)]);
    }
}

/// What a published template writes for an earlier call is what a model was trained to write: the parser reads it back.
#[test]
fn calls_are_read_as_templates_write_them() {
    let arguments = json!({"q": "a \"b\" <c>\nd", "n": 3, "flag": true, "deep": {"x": [1, "y"]}});
    let call = json!({"id": "abcdefghi", "type": "function",
        "function": {"name": "find", "arguments": arguments}});
    let user = json!({"role": "user", "content": "Q"});
    let assistant = json!({"role": "assistant", "content": "", "tool_calls": [call]});
    let definition = json!({"type": "function",
        "function": {"name": "find", "description": "finds", "parameters": {
            "type": "object", "properties": {"q": {"type": "string", "description": "what"}}}}});
    for name in [
        "Qwen-Qwen3-0.6B",
        "Qwen3-Coder",
        "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
        "meta-llama-Llama-3.1-8B-Instruct",
        "mistralai-Ministral-3-14B-Reasoning-2512",
        "unsloth-mistral-Devstral-Small-2507",
        "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
        "google-gemma-4-31B-it",
        "ibm-granite-granite-4.1",
        "moonshotai-Kimi-K2",
        "MiniMax-M2",
        "GLM-4.7-Flash",
    ] {
        let source = template(name);
        let chat = ChatTemplate::from_source(&source, "<s>", "</s>").unwrap();
        let render = |messages: Vec<Value>, add_generation_prompt| {
            let tools = Some(vec![definition.clone()]);
            let input =
                ChatInput { messages, tools, add_generation_prompt, ..ChatInput::default() };
            chat.render(&input).unwrap()
        };
        let prompt = render(vec![user.clone()], false);
        let whole = render(vec![user.clone(), assistant.clone()], false);
        let answer = whole.strip_prefix(&prompt).expect(name);
        let opened = render(vec![user.clone()], true);
        let head = opened.strip_prefix(&prompt).expect(name);
        let answer = answer.strip_prefix(head).unwrap_or(answer);
        let format = ToolFormat::detect(&source, &[]);
        let case = Case { format: format.name(), template: "", text: "", expected: &[] };
        let pieces = run(settings(&case, ReasoningFormat::None), &[answer]);
        // Before and behind it are the markers of the turn, which no answer shows.
        let at = pieces.iter().position(|piece| piece.starts_with('@'));
        let at = at.unwrap_or_else(|| panic!("{name}: no call in {answer:?}: {pieces:?}"));
        assert!(pieces[at].starts_with("@find"), "{name}: {pieces:?}");
        let found: Value = serde_json::from_str(&pieces[at + 1][1..]).unwrap();
        assert_eq!(found, arguments, "{name}: {answer:?}");
    }
}

fn template(name: &str) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/chat/templates");
    std::fs::read_to_string(format!("{folder}/{name}.jinja")).unwrap()
}

/// Published templates, by what their families are known to write.
#[test]
fn formats_are_detected_from_published_templates() {
    let expected = [
        ("Qwen-Qwen3-0.6B", "hermes"),
        ("Qwen-QwQ-32B", "hermes"),
        ("Qwen3-Coder", "qwen3-coder"),
        ("NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "qwen3-coder"),
        ("NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "hermes"),
        ("ibm-granite-granite-4.1", "hermes"),
        ("meta-llama-Llama-3.1-8B-Instruct", "llama3"),
        ("meta-llama-Llama-3.2-3B-Instruct", "llama3"),
        ("mistralai-Ministral-3-14B-Reasoning-2512", "mistral"),
        ("unsloth-mistral-Devstral-Small-2507", "mistral"),
        ("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "deepseek"),
        ("google-gemma-4-31B-it", "gemma4"),
        ("google-gemma-2-2b-it", "none"),
        ("GLM-4.7-Flash", "glm-4.7"),
        ("moonshotai-Kimi-K2", "kimi-k2"),
        ("Kimi-K2-Instruct", "kimi-k2"),
        ("MiniMax-M2", "minimax-m2"),
        ("ByteDance-Seed-OSS", "seed-oss"),
        ("LFM2-8B-A1B", "none"),
        ("microsoft-Phi-3.5-mini-instruct", "none"),
    ];
    for (name, format) in expected {
        let source = template(name);
        assert_eq!(ToolFormat::detect(&source, &[]).name(), format, "{name}");
    }
    let glm =
        "{{ '<tool_call>' + name }}\n<arg_key>{{ k }}</arg_key>\n<arg_value>{{ v }}</arg_value>";
    assert_eq!(ToolFormat::detect(glm, &[]).name(), "glm-4.5");
    let deepseek = "{{ '<｜tool▁call▁begin｜>' + name + '<｜tool▁sep｜>' + arguments }}";
    assert_eq!(ToolFormat::detect(deepseek, &[]).name(), "deepseek-v3.1");
    let harmony = "{{ '<|start|>assistant<|channel|>final<|message|>' }}";
    assert_eq!(ToolFormat::detect(harmony, &[]).name(), "harmony");
    assert_eq!(ToolFormat::detect("{{ messages }}", &["[TOOL_CALLS]"]), ToolFormat::NONE);
    assert_eq!(ToolFormat::detect("{{ tools }}", &["[TOOL_CALLS]"]).name(), "mistral");
    for name in ToolFormat::names() {
        assert_eq!(ToolFormat::named(name).map(|format| format.name()), Some(name));
    }
    assert!(ToolFormat::named("xml").is_none());
}

/// Control tokens come as text where the parser needs them, and only those.
#[test]
fn the_markers_of_a_vocabulary_are_shown_to_the_parser() {
    let tokenizer = testing::tokenizer("smollm2");
    let markers =
        ThinkMarkers { open: "<jupyter_start>", close: "<empty_output>", end: "", answer: None };
    let text = "<jupyter_start>why<empty_output><|im_start|>four";
    let ids = tokenizer.encode(text, false, true).unwrap();
    let stream = |shown: Vec<u32>| {
        let mut stream = DetokenStream::showing(shown);
        let text: String = ids.iter().map(|id| stream.push(&tokenizer, *id)).collect();
        text + &stream.finish()
    };
    let hermes = CASES.iter().find(|case| case.format == "hermes").unwrap();
    let mut settings = settings(hermes, ReasoningFormat::None);
    // Its markers are none of this vocabulary's control tokens, and are text anyway.
    assert!(settings.shown_tokens(&tokenizer).is_empty());
    assert_eq!(run(settings.clone(), &[&stream(vec![])]), ["+whyfour"]);
    settings.reasoning = Some(markers);
    let shown = settings.shown_tokens(&tokenizer);
    assert_eq!(shown.len(), 2);
    assert_eq!(run(settings, &[&stream(shown)]), ["~why", "+four"]);
}

/// Text that is full of markers, whole or not, and of what stands between them.
fn hostile(format: &'static str) -> impl Strategy<Value = String> {
    let words: Vec<&'static str> = vec![
        "<tool_call>",
        "</tool_call>",
        "{\"name\": \"add\", \"arguments\": ",
        "{\"a\": \"",
        "\"}",
        "}",
        "{",
        "[",
        "]",
        ",",
        "\n",
        " ",
        "<function=add>",
        "<parameter=q>",
        "<parameter name=\"q\">",
        "add\">",
        "<arg_key>",
        "q</arg_key>",
        "<arg_value>",
        "</arg_value>",
        "</invoke>",
        "functions.add:0",
        "<|tool_call_argument_begin|>",
        "<parameter=n>",
        "</parameter>",
        "</function>",
        "1",
        "é",
        "<think>",
        "</think>",
        "[TOOL_CALLS]",
        "add",
        "[ARGS]",
        "[CALL_ID]",
        "<|python_tag|>",
        "```json",
        "```",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁sep｜>",
        "<｜tool▁call▁end｜>",
        "<|channel|>",
        "analysis",
        "<|message|>",
        "<|end|>",
        "<|start|>",
        " to=functions.add",
        "<|call|>",
        "<|tool_call>",
        "call:add{",
        "<|\"|>",
        "<tool_call|>",
        "q:",
        "\\",
        "\"",
        "<",
        "<|",
        "commentary",
    ];
    let favourites: Vec<&'static str> = match ToolFormat::named(format).unwrap().0 {
        Kind::Row(format) => [format.openers, format.closers, format.silent].concat(),
        Kind::Harmony => harmony::CONTROL.to_vec(),
        Kind::None => vec!["x"],
    };
    let word = prop_oneof![
        3 => proptest::sample::select(words),
        2 => proptest::sample::select(favourites),
    ];
    proptest::collection::vec(word, 0..24).prop_map(|words| words.concat())
}

fn any_format() -> impl Strategy<Value = (&'static str, String)> {
    let names: Vec<&'static str> = ToolFormat::names().collect();
    proptest::sample::select(names).prop_flat_map(|name| (Just(name), hostile(name)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]
    #[test]
    fn any_cut_of_any_text_gives_the_same_pieces(
        (format, text) in any_format(),
        cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..8),
        opened: bool,
    ) {
        let case = Case { format, template: "</think>", text: "", expected: &[] };
        let mut settings = settings(&case, ReasoningFormat::Auto);
        settings.reasoning_opened = opened;
        let whole = run(settings.clone(), &[&text]);
        let places = boundaries(&text);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| places[cut.index(places.len())]).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let parts: Vec<&str> = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
        prop_assert_eq!(run(settings, &parts), whole, "{:?}", parts);
    }

    #[test]
    fn arguments_are_always_json((format, text) in any_format()) {
        let case = Case { format, template: "", text: "", expected: &[] };
        let pieces = run(settings(&case, ReasoningFormat::None), &[&text]);
        for arguments in pieces.iter().filter_map(|piece| piece.strip_prefix('=')) {
            let whole = complete_json(arguments);
            prop_assert!(serde_json::from_str::<Value>(&whole).is_ok(), "{}", whole);
        }
    }
}
