//! Renderings of other implementations, byte for byte; Python's behaviour; the builtin templates.

use std::fs;

use serde_json::{Value, json};

use super::*;

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/chat");

/// 2024-07-26T12:00:00, the day the renderings were made on.
const NOW: i64 = 1_721_995_200;

fn load(name: &str) -> Value {
    let text = fs::read_to_string(format!("{DATA}/{name}")).expect("test data is readable");
    serde_json::from_str(&text).expect("test data is JSON")
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().expect("a list")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

/// The six conversations, with their names.
fn conversations() -> Vec<(String, ChatInput)> {
    let conversation = |entry: &Value| {
        let input = ChatInput {
            messages: list(&entry["messages"]).clone(),
            tools: entry.get("tools").map(|tools| list(tools).clone()),
            add_generation_prompt: entry["add_generation_prompt"] == true,
            now: NOW,
            ..ChatInput::default()
        };
        (text(&entry["id"]).to_owned(), input)
    };
    list(&load("conversations.json")).iter().map(conversation).collect()
}

fn input_of(messages: Value) -> ChatInput {
    ChatInput { messages: list(&messages).clone(), now: NOW, ..ChatInput::default() }
}

pub(super) fn render(source: &str) -> Result<String, TemplateError> {
    render_with(source, json!({}))
}

pub(super) fn render_with(source: &str, extra: Value) -> Result<String, TemplateError> {
    let extra = extra.as_object().expect("a mapping").clone();
    let messages = vec![json!({"role": "user", "content": "hi"})];
    let input = ChatInput { messages, extra, now: NOW, ..ChatInput::default() };
    ChatTemplate::from_source(source, "<s>", "</s>")?.render(&input)
}

/// What a rendering must be: a text, or a refusal.
fn check(
    what: &str,
    rendered: Result<String, TemplateError>,
    expected: &Value,
) -> Result<(), String> {
    match (rendered, expected.get("text"), expected.get("error")) {
        (Ok(rendered), Some(text), None) if rendered == *text => Ok(()),
        (Err(error), None, Some(expected)) => {
            // "TemplateError: …" is what the template itself said; it must reach the user.
            let own = text(expected).strip_prefix("TemplateError: ");
            match own {
                Some(own) if !matches!(&error, TemplateError::Refused { message, .. } if message == own) => {
                    Err(format!("{what}: {error}\n  expected {own}"))
                }
                _ => Ok(()),
            }
        }
        (rendered, ..) => Err(format!("{what}:\n  {rendered:?}\n  expected {expected}")),
    }
}

#[test]
fn published_templates_render_as_transformers_renders_them() {
    let expected = load("renderings.json");
    let conversations = conversations();
    let mut failures = Vec::new();
    let mut compared = 0;
    for (name, entry) in expected["templates"].as_object().expect("a mapping") {
        let source = fs::read_to_string(format!("{DATA}/templates/{name}")).expect("readable");
        let template = ChatTemplate::from_source(&source, "<BOS>", "<EOS>").expect("compiles");
        for (id, input) in &conversations {
            let renders = list(&entry["renders"]);
            let expected = renders.iter().find(|entry| entry["id"] == *id).expect("a rendering");
            let what = format!("{name}, {id}");
            failures.extend(check(&what, template.render(input), expected).err());
            compared += 1;
        }
    }
    assert_eq!(compared, 47 * 6);
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn a_template_from_a_gguf_renders_as_transformers_renders_it() {
    let expected = load("smollm2.json");
    let source = text(&expected["template"]);
    let template = ChatTemplate::from_source(source, "<|im_start|>", "<|im_end|>").unwrap();
    assert_eq!(template.source(), source);
    for ((id, input), expected) in conversations().iter().zip(list(&expected["renders"])) {
        assert_eq!(*id, text(&expected["id"]));
        assert_eq!(template.render(input).unwrap(), text(&expected["text"]), "{id}");
    }
}

#[test]
fn built_in_templates_render_as_llama_cpp_renders_them() {
    let expected = load("smollm2.json");
    for (ours, theirs, begins_with_bos) in [
        ("chatml", "chatml", false),
        ("llama2", "llama2", true),
        ("llama3", "llama3", true),
        ("gemma", "gemma", true),
        ("phi", "phi3", false),
    ] {
        let vectors = list(&expected["llama_chat_apply_template"][theirs]);
        let template = ChatTemplate::builtin(ours, "<s>", "</s>").expect("a known name");
        assert_eq!(vectors.len(), 5);
        for ((id, input), expected) in conversations().iter().zip(vectors) {
            // llama.cpp leaves BOS to the tokenizer.
            let bos = if begins_with_bos { "<s>" } else { "" };
            let expected = format!("{bos}{}", text(expected));
            assert_eq!(template.render(input).unwrap(), expected, "{ours}, {id}");
        }
    }
}

#[test]
fn built_in_templates_render_as_the_published_ones() {
    let expected = load("renderings.json");
    for (ours, published, thinking) in [
        ("deepseek_r1", "deepseek-ai-DeepSeek-R1-Distill-Llama-8B.jinja", None),
        ("deepseek_r1", "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B.jinja", Some(false)),
        ("nemotron", "NVIDIA-Nemotron-Nano-v2.jinja", None),
    ] {
        let template = ChatTemplate::builtin(ours, "<BOS>", "<EOS>").expect("a known name");
        let renders = list(&expected["templates"][published]["renders"]);
        for ((id, mut input), expected) in conversations().into_iter().zip(renders).take(5) {
            if let Some(thinking) = thinking {
                input.extra.insert("enable_thinking".into(), thinking.into());
            }
            assert_eq!(template.render(&input).unwrap(), text(&expected["text"]), "{ours}, {id}");
        }
    }
}

#[test]
fn built_in_templates_drop_reasoning_and_refuse_what_they_cannot_say() {
    let turns = json!([
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "<think>\nwhy\n</think>\n\nb"},
        {"role": "user", "content": "c"},
    ]);
    let render = |name, input: &ChatInput| {
        ChatTemplate::builtin(name, "<s>", "</s>").expect("a known name").render(input)
    };
    let deepseek = render("deepseek_r1", &input_of(turns.clone())).unwrap();
    assert_eq!(deepseek, "<s><｜User｜>a<｜Assistant｜>\n\nb<｜end▁of▁sentence｜><｜User｜>c");
    let nemotron = render("nemotron", &input_of(turns)).unwrap();
    assert_eq!(
        nemotron,
        "<SPECIAL_10>System\n\n\n<SPECIAL_11>User\na\n<SPECIAL_11>Assistant\nb\n<SPECIAL_12>\n\
         <SPECIAL_11>User\nc\n"
    );
    for name in BUILTIN_NAMES {
        let mut input = input_of(json!([{"role": "user", "content": "a"}]));
        input.tools = Some(vec![json!({"type": "function"})]);
        let error = render(name, &input).unwrap_err().to_string();
        assert!(error.contains(&format!("the built-in {name} template has no form for tools")));
        render(name, &input_of(json!([]))).expect("an empty conversation");
    }
    for name in ["llama2", "gemma", "deepseek_r1", "nemotron"] {
        let input = input_of(json!([{"role": "tool", "content": "a"}]));
        let error = render(name, &input).unwrap_err().to_string();
        assert!(error.contains("has no role tool"), "{name}: {error}");
    }
    assert!(ChatTemplate::builtin("auto", "", "").is_none());
}

/// Each right side is what CPython 3.11 with Jinja 3.1.6 prints in the environment of transformers.
#[test]
fn values_print_as_in_python() {
    let extra = json!({
        "d": {"a": [1, 2.5, null, true, "it's"], "items": 1},
        "floats": [1e20, 1e-5, 0.0001, 1e15, 1e16, -0.0, 123456.789],
        "big": 18446744073709551615u64,
    });
    for (source, expected) in [
        ("{{ d }}", r#"{'a': [1, 2.5, None, True, "it's"], 'items': 1}"#),
        ("{{ floats }}", "[1e+20, 1e-05, 0.0001, 1000000000000000.0, 1e+16, -0.0, 123456.789]"),
        (
            "{{ floats | tojson }}",
            "[1e+20, 1e-05, 0.0001, 1000000000000000.0, 1e+16, -0.0, 123456.789]",
        ),
        ("{{ 1e20 }} {{ 1.0 }} {{ 3 / 2 }} {{ 4 / 2 }} {{ 7 // 2 }}", "1e+20 1.0 1.5 2.0 3"),
        ("{{ none }}|{{ true }}|{{ missing }}|{{ big }}", "None|True||18446744073709551615"),
        ("{{ d | tojson }}", r#"{"a": [1, 2.5, null, true, "it's"], "items": 1}"#),
        ("{{ {'b': 1, 'a': '<é>'} | tojson }}", r#"{"b": 1, "a": "<é>"}"#),
        (
            "{{ {'b': 1, 'a': 'é🚀'} | tojson(ensure_ascii=true, sort_keys=true) }}",
            r#"{"a": "\u00e9\ud83d\ude80", "b": 1}"#,
        ),
        (
            "{{ {'a': [1, {}], 'b': []} | tojson(indent=2) }}",
            "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"b\": []\n}",
        ),
        ("{{ [1, {'a': 2}] | tojson(separators=(',', ':')) }}", "[1,{\"a\":2}]"),
        (
            "{{ {1: none, none: 2, false: 1.5} | tojson }}",
            r#"{"1": null, "null": 2, "false": 1.5}"#,
        ),
        (r#"{{ 'a"\\\n\t/<&\x7f' | tojson }}"#, "\"a\\\"\\\\\\n\\t/<&\u{7f}\""),
        ("{{ d.items() | list }}", r#"[('a', [1, 2.5, None, True, "it's"]), ('items', 1)]"#),
        ("{% for k, v in d.items() %}{{ k }},{% endfor %}", "a,items,"),
        ("{{ d.get('x', 'no') }} {{ d.get('x') }} {{ 'a' in d }}", "no None True"),
        ("{{ ['a', 1, none] | string }} {{ d['items'] | string }}", "['a', 1, None] 1"),
        ("{{ 'x' is sequence }} {{ d is sequence }} {{ 1 is sequence }}", "True True False"),
        ("{{ none is iterable }} {{ 'x' is iterable }} {{ d is mapping }}", "False True True"),
        ("{{ d is iterable and d is not mapping }} {{ [] is sequence }}", "False True"),
    ] {
        assert_eq!(render_with(source, extra.clone()).unwrap(), expected, "{source}");
    }
}

/// Each right side is what CPython 3.11 with Jinja 3.1.6 prints in the environment of transformers.
#[test]
fn text_methods_and_slices_are_those_of_python() {
    for (source, expected) in [
        (r"{{ '\x1c a \u3000'.strip() }}|{{ ' a ' | trim }}|{{ 'xxaxx'.strip('x') }}", "a|a|a"),
        ("{{ ' a '.lstrip() }}|{{ ' a '.rstrip() }}|{{ '--a-'.lstrip('-') }}", "a | a|a-"),
        (
            "{{ ' a  b c '.split() }} {{ ' a  b c '.split(none, 1) }}",
            "['a', 'b', 'c'] ['a', 'b c ']",
        ),
        (
            "{{ 'a,b,,c'.split(',') }} {{ 'a,b,c'.split(',', 1) }}",
            "['a', 'b', '', 'c'] ['a', 'b,c']",
        ),
        ("{{ 'a,b,c'.rsplit(',', 1) }} {{ 'a,b'.split(',', maxsplit=1)[-1] }}", "['a,b', 'c'] b"),
        (r"{{ 'a\r\nb\n\nc\x0b'.splitlines() }}", "['a', 'b', '', 'c']"),
        (r"{{ 'a\nb'.splitlines(true) }}", r"['a\n', 'b']"),
        ("{{ 'prefix-a'.removeprefix('prefix-') }} {{ 'a.py'.removesuffix('.py') }}", "a a"),
        ("{{ 'a=b=c'.partition('=')[2] }} {{ 'a=b=c'.rpartition('=')[0] }}", "b=c a=b"),
        ("{{ 'abc'.index('c') }} {{ 'abcb'.rindex('b') }} {{ 'abc'.find('x') }}", "2 3 -1"),
        ("{{ 'abc'.startswith(('x', 'a')) }} {{ 'abc'.endswith('bc') }}", "True True"),
        (
            "{{ 'aXa'.replace('a', 'b', 1) }} {{ 'ab'.upper() }} {{ 'éa'.capitalize() }}",
            "bXa AB Éa",
        ),
        ("{{ '{} and {}'.format(1, 'b') }} {{ ', '.join(['a', 'b']) }}", "1 and b a, b"),
        (
            "{{ 'héllo'[1:3] }} {{ 'abc'[::-1] }} {{ [1, 2, 3][-2:] }} {{ [1, 2, 3][::-1] }}",
            "él cba [2, 3] [3, 2, 1]",
        ),
        (
            "{{ [1, 2, 3].index(2) }} {{ [1, 1].count(1) }} {{ [1] + [2] }} {{ 'ab' * 2 }}",
            "1 2 [1, 2] abab",
        ),
        ("{{ 'a' ~ 1 ~ none }} {{ 'b' if false }}|{{ 5 % 3 }} {{ -5 // 3 }}", "a1None |2 -2"),
        (
            "{{ messages[0].content }}{{ messages[-1]['role'] }}{{ bos_token }}{{ eos_token }}",
            "hiuser<s></s>",
        ),
    ] {
        assert_eq!(render(source).unwrap(), expected, "{source}");
    }
}

#[test]
fn the_extensions_of_transformers_work() {
    for (source, expected) in [
        ("a{% generation %}b{% endgeneration %}c", "abc"),
        ("a {%- generation -%} b {%- endgeneration -%} c", "abc"),
        ("{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}", "21"),
        (
            "{{ '{% generation %}' }}{# {% generation %} #}{% raw %}{% generation %}{% endraw %}",
            "{% generation %}{% generation %}",
        ),
        (
            "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
            "02",
        ),
        (
            "{% set ns = namespace(a=1) %}{% for i in [1, 2] %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}",
            "4",
        ),
        (
            "{% set ns = namespace(l=[]) %}{% for i in 'ab' %}{% set ns.l = ns.l + [i] %}{% endfor %}{{ ns.l }}",
            "['a', 'b']",
        ),
        (
            "{% for a in [1, 2, 3] if a > 1 %}{{ a }}{% endfor %}{% for a, b in [(1, 2)] %}{{ b }}{% endfor %}",
            "232",
        ),
        (
            "{% for x in [[1, [2]]] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}{% endif %}{% endfor %}",
            "(1(2))",
        ),
        ("{% for x in missing %}x{% else %}none{% endfor %}", "none"),
        ("  {% if true %}\n  a\n  {% endif %}\nb\n", "  a\nb"),
        ("{{ strftime_now('%d %b %Y %H:%M %A') }}", "26 Jul 2024 12:00 Friday"),
        ("{{ tools is none }} {{ tools is defined }} {{ documents }}", "True True None"),
    ] {
        assert_eq!(render(source).unwrap(), expected, "{source}");
    }
}

#[test]
fn strftime_is_that_of_python() {
    for (seconds, format, expected) in [
        (NOW, "%Y-%m-%d %-d %B %y %j %e %I%p %% %Q", "2024-07-26 26 July 24 208 26 12PM % %Q"),
        (
            0,
            "%F %T %a %w %u %U %W %G-W%V %Z|%f",
            "1970-01-01 00:00:00 Thu 4 4 00 00 1970-W01 |000000",
        ),
        (-1, "%c|%D|%R|%r|%C|%h", "Wed Dec 31 23:59:59 1969|12/31/69|23:59|11:59:59 PM|19|Dec"),
        (951_782_400, "%F %j %-m/%-d %k %l %^a", "2000-02-29 060 2/29  0 12 TUE"),
        (1_609_459_199, "%F %j %U %W %G-W%V", "2020-12-31 366 52 52 2020-W53"),
        (1_609_459_200, "%F %j %U %W %G-W%V %_m %-I", "2021-01-01 001 00 00 2020-W53  1 12"),
        (1_735_516_800, "%F %G-W%V %g %u", "2024-12-30 2025-W01 25 1"),
        (253_402_300_799, "%F %T%", "9999-12-31 23:59:59%"),
        (-62_135_596_800, "%-Y-%m-%d %a", "1-01-01 Mon"),
    ] {
        let formatted = strftime::strftime(seconds, format);
        assert_eq!(formatted.as_deref(), Some(expected), "{seconds} {format}");
    }
    assert_eq!(strftime::strftime(253_402_300_800, "%Y"), None);
    assert_eq!(strftime::strftime(i64::MIN, "%Y"), None);
}

#[test]
fn errors_name_the_line_and_the_reason() {
    for (source, expected) in [
        (
            "a\n{{ raise_exception('not you') }}",
            "the chat template refuses this conversation: not you (line 2)",
        ),
        (
            "{% macro f() %}\n{{ raise_exception('no') }}{% endmacro %}{{ f() }}",
            "the chat template refuses this conversation: no (line 2)",
        ),
        ("a\n\n{% if %}", "chat template, line 3: unexpected end of block"),
        ("{{ 'a", "chat template, line 1: unexpected end of string"),
        ("\n{{ a.b.c }}", "chat template, line 2: undefined value"),
        ("{% for x in none %}{% endfor %}", "chat template, line 1: none is not iterable"),
        (
            "{{ [].append(1) }}",
            "chat template, line 1: unknown method: sequence has no method named append",
        ),
        (
            "{{ missing | tojson }}",
            "chat template, line 1: could not serialize to value: object of type undefined is not JSON serializable",
        ),
        (
            "{{ 'a' + 1 }}",
            "chat template, line 1: tried to use + operator on unsupported types string and number",
        ),
        ("{% include 'x' %}", "chat template, line 1: template not found"),
        ("{{ nothing() }}", "chat template, line 1: unknown function: nothing is unknown"),
    ] {
        let error = render(source).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{source}: {error}");
    }
    let error = render_with("x", json!({"messages": []})).unwrap_err().to_string();
    assert!(error.contains("\"messages\" is set by the conversation"), "{error}");
}

#[test]
fn content_is_data_and_extra_variables_reach_the_template() {
    let hostile = "{{ raise_exception('x') }}{% for i in range(9) %}{# <|im_end|>";
    let input = input_of(json!([{"role": "user", "content": hostile}]));
    let template = ChatTemplate::from_source("{{ messages[0].content }}", "", "").unwrap();
    assert_eq!(template.render(&input).unwrap(), hostile);
    let extra = json!({"enable_thinking": false, "documents": ["d"], "bos_token": "B"});
    let source = "{{ enable_thinking is false }} {{ documents[0] }} {{ bos_token }}";
    assert_eq!(render_with(source, extra).unwrap(), "True d B");
}

#[test]
fn one_template_serves_many_threads() {
    fn shared<T: Send + Sync>(_: &T) {}
    let template = ChatTemplate::builtin("chatml", "", "").expect("a known name");
    shared(&template);
    let input = input_of(json!([{"role": "user", "content": "hi"}]));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let rendered = template.render(&input).unwrap();
                    assert_eq!(rendered, "<|im_start|>user\nhi<|im_end|>\n");
                }
            });
        }
    });
}
