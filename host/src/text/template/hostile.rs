//! Templates that mean harm: each ends quickly with the limit it ran into.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::json;

use super::tests::render;
use super::*;

/// Ends with an error, quickly; the error.
fn refused(source: &str) -> TemplateError {
    let start = Instant::now();
    let result = render(source);
    let elapsed = start.elapsed();
    let shown: String = source.chars().take(120).collect();
    // Milliseconds on an idle core; the rest is for a busy machine.
    assert!(elapsed < Duration::from_secs(30), "{shown}: took {elapsed:?}");
    match result {
        Ok(text) => panic!("{shown}: rendered {} bytes", text.len()),
        Err(error) => error,
    }
}

fn limit(source: &str) -> TemplateLimit {
    match refused(source) {
        TemplateError::Limit { limit, .. } => limit,
        error => panic!("{}: {error}", source.chars().take(120).collect::<String>()),
    }
}

fn is_fuel(limit: TemplateLimit) -> bool {
    matches!(limit, TemplateLimit::Fuel { .. })
}

fn is_items(limit: TemplateLimit) -> bool {
    matches!(limit, TemplateLimit::ValueItems { .. })
}

#[test]
fn endless_loops_run_out_of_fuel() {
    for source in [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(s='a') %}{% for a in range(99999) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s='a') %}{% for a in range(99999) %}{% set ns.s = [ns.s, ns.s] | join %}{% endfor %}",
        "{% set ns = namespace(s=[1]) %}{% for a in range(99999) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set s = 'a' * 1000000 %}{% for a in range(99999) %}{% if s.count('b') %}{% endif %}{% endfor %}",
        "{% set s = 'a' * 1000000 %}{% for a in range(99999) %}{% if 'b' in s %}{% endif %}{% endfor %}",
        "{% set s = 'a' * 1000000 %}{% for a in range(99999) %}{% set t = s.strip('b') %}{% endfor %}",
        "{% set s = ['a'] * 100000 %}{% for a in range(99999) %}{% if 'b' in s %}{% endif %}{% endfor %}",
        "{% set s = ['a'] * 100000 %}{% for a in range(99999) %}{% set i = s | join | length %}{% endfor %}",
        "{% macro f() %}{% for a in range(99999) %}{{ caller() }}{% endfor %}{% endmacro %}{% call f() %}{% call f() %}{% endcall %}{% endcall %}",
    ] {
        assert!(is_fuel(limit(source)), "{source}");
    }
}

#[test]
fn huge_output_and_huge_values_are_refused_before_they_exist() {
    for source in [
        "{{ 'a' * 99999999 }}",
        "{{ ('a' * 9999999) ~ ('a' * 99999999) }}",
        "{{ ['a'] * 99999999 }}",
        "{{ ([1] * 99999999) | join('aaaaaaaaaaa') }}",
        "{{ ('a' * 999999).replace('a', 'b' * 999999) }}",
        "{{ ('a' * 999999) | replace('a', 'b' * 999999) }}",
        "{{ (('a' * 9999) ~ ',') * 9999 }}",
        "{{ ('b' * 999999).join(['a'] * 99999) }}",
        "{{ '%99999999s' | format('a') }}",
        "{{ '{:99999999}'.format('a') }}",
        "{{ ('<' * 9999999) | e }}",
        "{{ ('<' * 29999999)|safe + ('<' * 29999999) }}",
    ] {
        let error = refused(source);
        let accepted = matches!(&error, TemplateError::Limit { limit, .. } if is_fuel(*limit));
        assert!(accepted || error.to_string().contains("too large"), "{source}: {error}");
    }
    for source in ["{{ 'a' * 10**9 }}", "{{ [1] * 10**9 }}", "{{ 'a' * 10**30 }}"] {
        refused(source);
    }
    // The engine's own cap, which is that of Jinja's sandbox.
    assert!(refused("{{ range(10**9) }}").to_string().contains("too many elements"));
    let output = "{% for a in range(1000) %}{{ 'a' * 9999 }}{% endfor %}";
    assert!(matches!(limit(output), TemplateLimit::OutputBytes { .. }));
}

/// `levels` values that each hold the one before twice: 2^levels items in a few hundred bytes.
fn shared(name: &str, levels: usize, twice: &str) -> String {
    format!("{{% set {name} = [1] %}}{}", format!("{{% set {name} = {twice} %}}").repeat(levels))
}

#[test]
fn a_value_that_holds_another_many_times_is_not_made() {
    for twice in [
        "[a, a]",
        "[[a, a]]",
        "(a, a)",
        "a, a",
        "((a), a)",
        "{'x': a, 'y': a}",
        "dict(x=a, y=a)",
        "dict({'x': a}, y=a)",
        "[a] * 2",
        "[a] + [a]",
        "(a * 2) | batch(99999) | list",
        "(a + a) | slice(1) | list",
        "[a, 1][0:1] + [1, a][1:]",
        "'' is eq [a, a] or [a, a]",
    ] {
        for walk in ["{{ a == [1] }}", "{{ a ~ 'x' }}", "{{ a }}", "{{ {a: 1} }}"] {
            let error = refused(&(shared("a", 30, twice) + walk));
            assert!(matches!(error, TemplateError::Limit { .. }), "{twice} {walk}: {error}");
        }
    }
    let inline = format!("{{{{ {}1{} ~ '' }}}}", "[".repeat(30), "] * 2".repeat(30));
    assert!(is_items(limit(&inline)));
    let passed = "{% macro f(a) %}{{ f([a, a]) }}{{ a ~ '' }}{% endmacro %}{{ f(1) }}";
    assert!(is_items(limit(passed)));
    let looped = "{% for a in [[1, 1]] recursive %}{{ loop([[a, a]]) }}{{ a ~ '' }}{% endfor %}";
    assert!(is_items(limit(looped)));
    let captured = "{% with a = [1] %}".to_owned() + &"{% with a = [a, a] %}".repeat(30);
    assert!(is_items(limit(&(captured + "{{ a ~ '' }}" + &"{% endwith %}".repeat(31)))));
}

#[test]
fn the_largest_shared_values_are_walked_quickly() {
    let values = shared("a", 7, "[a, a]") + &shared("b", 7, "[b, b]");
    for walk in [
        "{{ a }}",
        "{{ a | string }}",
        "{{ a | tojson }}",
        "{{ a | tojson(indent=64) }}",
        "{{ a ~ 'x' }}",
        "{{ [a] | join }}",
        "{{ ''.join([a]) }}",
        "{{ '%s' | format(a) }}",
        "{{ '{}'.format(a) }}",
        "{{ a | upper }}",
        "{{ a | trim }}",
        "{{ a | escape }}",
        "{{ a | replace('1', '2') }}",
        "{{ a == b }}",
        "{{ a in [b] }}",
        "{{ a < b }}",
        "{{ [a, b] | sort | length }}",
        "{{ {a: 1} | length }}",
        "{{ [a, b] | unique | list | length }}",
    ] {
        for source in [
            values.clone() + walk,
            format!(
                "{values}{{% for i in range(99999) %}}{{% set x %}}{walk}{{% endset %}}{{% endfor %}}"
            ),
        ] {
            let start = Instant::now();
            let _ = render(&source);
            assert!(start.elapsed() < Duration::from_secs(30), "{walk}: {:?}", start.elapsed());
        }
    }
}

#[test]
fn recursion_is_limited() {
    for source in [
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(n) %}{{ g(n) }}{% endmacro %}{% macro g(n) %}{{ f([n]) }}{% endmacro %}{{ f(1) }}",
        "{% macro f() %}{% call f() %}{% endcall %}{{ caller() }}{% endmacro %}{% call f() %}{% endcall %}",
        "{% for x in [1] recursive %}{{ loop([x]) }}{% endfor %}",
        "{% include 'chat' %}",
        "{% block a %}{{ self.a() }}{% endblock %}",
    ] {
        assert_eq!(limit(source), TemplateLimit::Recursion, "{source}");
    }
}

#[test]
fn values_cannot_grow_deeper_with_every_round() {
    let deep = TemplateLimit::ValueDepth { limit: VALUE_DEPTH };
    for kept in
        ["[ns.a]", "{'a': ns.a}", "(ns.a, 1)", "[[ns.a]][0:]", "[ns.a] + []", "dict(a=ns.a)"]
    {
        let source = format!(
            "{{% set ns = namespace(a=1) %}}{{% for i in range(99999) %}}{{% set ns.a = {kept} %}}{{% endfor %}}"
        );
        assert_eq!(limit(&source), deep, "{kept}");
        let pair =
            source.replace("ns.a = ", "ns.a, b = ").replace(" %}{% endfor", ", 1 %}{% endfor");
        assert_eq!(limit(&pair), deep, "{pair}");
    }
    for kept in ["ns", "[ns]", "{'a': [ns]}", "{ns: 1}", "f", "namespace(a=1)"] {
        let source = format!(
            "{{% macro f() %}}{{% endmacro %}}{{% set ns = namespace(a=1) %}}{{% for i in [1] %}}{{% set ns.a = {kept} %}}{{% endfor %}}{{{{ ns }}}}"
        );
        assert!(matches!(refused(&source), TemplateError::Failed { .. }), "{kept}");
    }
    let deep_input = (0..VALUE_DEPTH + 2).fold(json!(1), |value, _| json!([value]));
    let input = ChatInput { messages: vec![deep_input], ..ChatInput::default() };
    let template = ChatTemplate::from_source("x", "", "").unwrap();
    let error = template.render(&input).unwrap_err();
    assert!(matches!(error, TemplateError::Limit { limit, .. } if limit == deep));
}

/// As deep as fuel allows, in every operation that recurses into a value, and then dropped.
#[test]
fn the_deepest_value_does_not_overflow_the_stack() {
    let nest = format!("{{% set x = {}x{} %}}", "[".repeat(100), "]".repeat(100));
    let body = nest.repeat(400);
    for walk in [
        "",
        "{{ x == y }}",
        "{{ x ~ '' }}",
        "{{ x | length }}",
        "{{ {x: 1} | length }}",
        "{{ x }}",
        "{{ x | tojson }}",
        "{{ x < y }}",
        "{{ [x] | join }}",
        "{{ x | pprint }}",
        "{{ y in [x] }}",
        "{{ [x, y] | sort | length }}",
        "{{ [x, y] | unique | list | length }}",
    ] {
        let start = Instant::now();
        // `y` is as deep and not the same.
        let _ = render(&format!(
            "{{% set x = 1 %}}{body}{{% set y = x %}}{{% set x = 1 %}}{body}{walk}"
        ));
        // Deeper than the source alone: once more in every call.
        let recursive =
            format!("{{% macro f(x) %}}{body}{walk}{{{{ f(x) }}}}{{% endmacro %}}{{{{ f(1) }}}}");
        let _ = refused(&recursive);
        assert!(start.elapsed() < Duration::from_secs(30), "{walk}: {:?}", start.elapsed());
    }
}

#[test]
fn the_source_is_limited() {
    let long = "a".repeat(limits::SOURCE_BYTES + 1);
    let found = long.len();
    assert_eq!(limit(&long), TemplateLimit::SourceBytes { found, limit: limits::SOURCE_BYTES });
    let tokens = TemplateLimit::TagTokens { limit: limits::TAG_TOKENS };
    for (unit, close) in [
        ("-", "1"),
        ("not ", "1"),
        ("1 + ", "1"),
        ("a.", "a"),
        ("(", "1"),
        ("[", "1"),
        ("a(", "1"),
        ("1 if 1 else ", "1"),
        ("a | ", "e"),
        ("a and ", "a"),
        ("a is a and ", "a"),
        ("1 ~ ", "1"),
        ("1 ** ", "1"),
        ("{1:", "1"),
    ] {
        let most = 100_000 / unit.len();
        assert_eq!(limit(&format!("{{{{ {}{close} }}}}", unit.repeat(most))), tokens, "{unit}");
        // As deep as a tag may be: compiled, or refused by the engine, but no overflow.
        let count = unit.split_whitespace().count().max(unit.trim().len()).max(1);
        for within in [limits::TAG_TOKENS / count - 2, limits::TAG_TOKENS / count / 2] {
            let _ = render(&format!("{{{{ {}{close} }}}}", unit.repeat(within)));
            let _ = render(&format!("{{% set ns.a = {}{close} %}}", unit.repeat(within)));
            let _ =
                render(&format!("{{% for x in {}{close} %}}{{% endfor %}}", unit.repeat(within)));
        }
    }
    let branches = format!("{{% if a %}}{}{{% endif %}}", "{% elif a %}".repeat(9999));
    assert_eq!(limit(&branches), TemplateLimit::Branches { limit: limits::BRANCHES });
    let within = format!("{{% if a %}}{}{{% endif %}}", "{% elif a %}".repeat(limits::BRANCHES));
    assert_eq!(render(&within).unwrap(), "");
    for open in [
        "{% if a %}",
        "{% for x in y %}",
        "{% set x %}",
        "{% macro f() %}",
        "{% with %}",
        "{% call f() %}",
        "{% filter e %}",
        "{% generation %}",
    ] {
        assert_eq!(limit(&open.repeat(8000)), TemplateLimit::SourceDepth, "{open}");
    }
    let lines = format!("{}{{{{ a.b.c }}}}", "\n".repeat(100_000));
    assert!(matches!(refused(&lines), TemplateError::Failed { .. }));
}

#[test]
fn nothing_of_the_host_can_be_reached() {
    for source in [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__class__.__bases__ }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ debug() }}",
        "{{ self.__dict__.x }}",
        "{% include '/etc/passwd' %}",
        "{% import '/etc/passwd' as p %}",
        "{% from 'x' import y %}",
        "{% extends '../../etc/passwd' %}",
        "{{ lipsum.__globals__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ messages.append(1) }}",
        "{{ messages.clear() }}",
        "{{ messages[0].update({}) }}",
        "{{ messages[0].pop('role') }}",
    ] {
        assert!(matches!(refused(source), TemplateError::Failed { .. }), "{source}");
    }
    assert_eq!(render("{{ ''.__class__ }}{{ env }}{{ PATH }}").unwrap(), "");
}

#[test]
fn a_long_conversation_gets_the_fuel_it_needs() {
    let content = "word ".repeat(200);
    let turn = |index: usize| {
        let role = if index.is_multiple_of(2) { "user" } else { "assistant" };
        json!({"role": role, "content": content})
    };
    let messages: Vec<_> = (0..5001).map(turn).collect();
    let input = ChatInput { messages, add_generation_prompt: true, ..ChatInput::default() };
    for name in BUILTIN_NAMES {
        let template = ChatTemplate::builtin(name, "<s>", "</s>").unwrap();
        let prompt = template.render(&input).unwrap();
        assert!(prompt.len() > 5_000_000, "{name}");
    }
}

/// Pieces of Jinja in any order.
fn soup() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        proptest::sample::select(vec![
            "{{", "}}", "{%", "%}", "{#", "#}", "{%-", "-%}", "{{-", "-}}", "{%+", "\n", " ", "\t",
        ]),
        proptest::sample::select(vec![
            "for",
            "endfor",
            "in",
            "if",
            "elif",
            "else",
            "endif",
            "set",
            "endset",
            "macro",
            "endmacro",
            "call",
            "endcall",
            "filter",
            "endfilter",
            "with",
            "endwith",
            "generation",
            "endgeneration",
            "raw",
            "endraw",
            "break",
            "continue",
            "recursive",
            "block",
            "do",
            "endblock",
            "include",
            "import",
            "from",
            "extends",
            "as",
            "is",
            "not",
            "and",
            "or",
        ]),
        proptest::sample::select(vec![
            "(",
            ")",
            "[",
            "]",
            "{",
            "}",
            ",",
            ":",
            ".",
            "|",
            "~",
            "+",
            "-",
            "*",
            "**",
            "/",
            "//",
            "%",
            "=",
            "==",
            "!=",
            "<",
            ">=",
            "'a'",
            "\"",
            "'",
            "\\",
            "0",
            "1",
            "-1",
            "99999999999",
            "1e309",
            "0.5",
            "1:2",
            "[::-1]",
            "[0]",
            "é",
            "🚀",
        ]),
        proptest::sample::select(vec![
            "messages",
            "tools",
            "ns",
            "x",
            "loop",
            "loop.index",
            "namespace(a=1)",
            "ns.a",
            "none",
            "true",
            "range(9)",
            "joiner()",
            "cycler(1)",
            "messages[0].content",
            "strftime_now('%c')",
            "raise_exception('x')",
            "tojson",
            "safe",
            "string",
            "join",
            "length",
            "trim",
            "e",
            "items()",
            "split('a')",
            "strip()",
            "get('a')",
            "replace('a','b')",
            "format(1)",
            "dictsort",
            "map",
            "selectattr('a')",
            "default(1)",
            "tojson(indent=2)",
            "sort",
            "splitlines()",
            "rsplit(none,1)",
            "partition('a')",
            "mapping",
            "defined",
            "iterable",
        ]),
    ];
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.join(" "))
}

/// Statements that compile more often than not.
fn statements() -> impl Strategy<Value = String> {
    let leaf = proptest::sample::select(vec![
        "x",
        "messages",
        "ns",
        "ns.a",
        "1",
        "-2",
        "0.5",
        "'é<b'",
        "[]",
        "[1, 'b']",
        "{'a': 1}",
        "none",
        "true",
        "tools",
        "messages[0]",
        "range(5)",
        "(1, 2)",
        "9223372036854775807",
        "''",
    ])
    .prop_map(str::to_owned);
    let expression = leaf.prop_recursive(4, 24, 3, |inner| {
        let binary = proptest::sample::select(vec![
            "+", "-", "*", "/", "//", "%", "**", "~", "==", "<", "in", "and", "or", "not in",
        ]);
        let suffix = proptest::sample::select(vec![
            "|tojson",
            "|string",
            "|length",
            "|join(',')",
            "|list",
            "|safe",
            "|trim",
            "|int",
            "|e",
            "|float",
            "|first",
            "|last",
            "|sort",
            "|reverse",
            "|upper",
            "|indent(3)",
            "|dictsort",
            "|items",
            "|unique",
            "|sum",
            "|min",
            "|batch(2)",
            "|slice(2)",
            "|round",
            "|abs",
            "|default(1, true)",
            "|map('upper')",
            "|select",
            "|title",
            "|replace('a', 'bb')",
            "|tojson(indent=3, sort_keys=true)",
            "|tojson(separators=(',', ':'))",
            "|format(1)",
            ".a",
            ".items()",
            ".keys()",
            ".split()",
            ".rsplit('b', 1)",
            ".strip('a')",
            ".splitlines(true)",
            ".get('a', 1)",
            ".format(1, a=2)",
            ".join([1])",
            ".title()",
            ".partition('<')",
            ".find('b')",
            ".index('b')",
            ".count('b')",
            ".startswith('a')",
            ".replace('b', 'ccc', 1)",
            "[0]",
            "[-1]",
            "[1:]",
            "[::-1]",
            "[:-1:2]",
            "['a']",
            " is string",
            " is mapping",
            " is sequence",
            " is iterable",
            " is none",
            " is odd",
        ]);
        prop_oneof![
            (inner.clone(), binary, inner.clone()).prop_map(|(a, op, b)| format!("({a} {op} {b})")),
            (inner.clone(), suffix).prop_map(|(a, suffix)| format!("({a}){suffix}")),
            (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(a, b, c)| format!("({a} if {b} else {c})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[{a}, {b}]")),
            (inner.clone(), inner).prop_map(|(a, b)| format!("{{{a}: {b}}}")),
        ]
    });
    let statement = expression.clone().prop_map(|e| format!("{{{{ {e} }}}}"));
    let statement = statement.prop_recursive(3, 12, 3, move |inner| {
        prop_oneof![
            (expression.clone(), inner.clone())
                .prop_map(|(e, body)| format!("{{% if {e} %}}{body}{{% else %}}b{{% endif %}}")),
            (expression.clone(), inner.clone())
                .prop_map(|(e, body)| format!("{{% for x in {e} %}}{body}{{% endfor %}}")),
            expression.clone().prop_map(|e| format!("{{% set x = {e} %}}")),
            (expression.clone(), expression.clone())
                .prop_map(|(a, b)| format!("{{% set ns.a, ns.b = {a}, {b} %}}")),
            (expression.clone(), inner.clone()).prop_map(|(e, body)| format!(
                "{{% macro f(a={e}) %}}{body}{{% endmacro %}}{{{{ f() }}}}"
            )),
            (inner.clone(), inner).prop_map(|(a, b)| format!("{a}{b}")),
        ]
    });
    statement.prop_map(|body| {
        format!("{{% set ns = namespace(a=1) %}}{{% for i in range(3) %}}{body}{{% endfor %}}")
    })
}

/// Ends, with a text or an error that is not the engine's own fault.
fn ends(source: &str) -> Result<(), TestCaseError> {
    let start = Instant::now();
    let result = render(source);
    prop_assert!(start.elapsed() < Duration::from_secs(30), "took {:?}", start.elapsed());
    prop_assert!(!matches!(result, Err(TemplateError::Engine { .. })), "{result:?}");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn any_text_is_a_template_or_an_error(source in "\\PC*") {
        ends(&source)?;
    }

    #[test]
    fn any_tokens_are_a_template_or_an_error(source in soup()) {
        ends(&source)?;
    }

    #[test]
    fn any_statements_render_or_fail(source in statements()) {
        ends(&source)?;
    }
}
