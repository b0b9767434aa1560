//! What users meet: values, errors, the search order, and fresh generated files.

use std::path::{Path, PathBuf};

use crate::{
    Config, ConfigError, Environment, Key, KvDtype, LogLevel, Origin, RopeScaling, Toggle,
};

fn parse(text: &str) -> Result<Config, ConfigError> {
    let mut config = Config::default();
    config.apply_toml(Path::new("imp.conf"), text).map(|()| config)
}

/// The message of the error that `text` must give.
fn refusal(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

fn set_refusal(argument: &str) -> String {
    let mut config = Config::default();
    let message = config.set(argument).expect_err(argument).to_string();
    assert_eq!(config, Config::default(), "a refused --set changed something");
    message
}

/// A directory of this test's own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("imp-config-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }
    fn environment(&self) -> Environment {
        Environment {
            imp_config: None,
            working_dir: self.0.join("work"),
            home: Some(self.0.join("home").into()),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn keys_of_yarn_are_refused_beside_linear() {
    let mut config = Config::default();
    for set in ["rope.scaling=linear", "rope.factor=2", "rope.beta_fast=16"] {
        config.set(set).unwrap();
    }
    assert!(config.check().unwrap_err().to_string().contains("rope.beta_fast"));
}

#[test]
fn the_keys_of_the_manual_exist() {
    let paths: Vec<_> = Key::all().iter().map(Key::path).collect();
    for key in [
        "kv_cache.dtype",
        "runtime.cuda_graphs",
        "attention.mxfp4",
        "attention.fp8_fmha",
        "attention.fmha_sm120",
    ] {
        assert!(paths.iter().any(|path| path == key), "{key}");
    }
}

#[test]
fn a_file_sets_every_type() {
    let config = parse(
        "# a comment\n[runtime]\nexact = true\nmax_seq_len = 4_096 # inline\nprefill_chunk_size = -1\n\
         [kv_cache]\ndtype = \"fp32\"\n[rope]\nscaling = 'yarn'\nfactor = 4\nbeta_fast = 1.5e1\n\
         [paths]\nmodels = \"/tmp/a # b\"\n[diagnostics]\nlog_level = \"debug\"\n",
    )
    .unwrap();
    assert!(config.runtime.exact);
    assert_eq!(config.runtime.max_seq_len, 4096);
    assert_eq!(config.kv_cache.dtype, KvDtype::Fp32);
    assert_eq!(config.rope.scaling, RopeScaling::Yarn);
    assert_eq!((config.rope.factor, config.rope.beta_fast), (4.0, 15.0));
    assert_eq!(config.paths.models, Path::new("/tmp/a # b"));
    assert_eq!(config.diagnostics.log_level, LogLevel::Debug);
    assert_eq!(config.attention.mxfp4, Toggle::Auto);
    config.check().unwrap();
}

#[test]
fn other_spellings_of_toml_and_an_empty_file() {
    assert_eq!(parse("").unwrap(), Config::default());
    assert_eq!(parse("\r\n# only a comment").unwrap(), Config::default());
    for text in
        ["runtime.exact = true", "runtime = { exact = true }", "[runtime]\r\nexact = true\r\n"]
    {
        assert!(parse(text).unwrap().runtime.exact, "{text}");
    }
}

#[test]
fn errors_name_place_key_found_and_expected() {
    assert_eq!(
        refusal("[runtime]\n  max_seq_len = \"long\"\n"),
        "imp.conf:2:17: runtime.max_seq_len is the string \"long\", \
         expected a whole number from 0 to 16777216"
    );
    assert_eq!(
        refusal("[kv_cache]\n# é\ndtype = \"fp9\""),
        "imp.conf:3:9: kv_cache.dtype is the string \"fp9\", expected one of \"auto\", \"fp16\", \
         \"fp32\", \"fp8\", \"int8\", \"int4\", \"nvfp4\", \"mxfp4\", \"turboquant\""
    );
    for (text, part) in [
        ("[runtime]\nexact = 1", "is the integer 1, expected true or false"),
        ("[runtime]\nexact = \"true\"", "is the string \"true\", expected true or false"),
        ("[runtime]\nmax_seq_len = -1", "is the integer -1"),
        ("[runtime]\nmax_seq_len = 4.0", "is the float 4.0"),
        ("[runtime]\nmax_seq_len = 16777217", "expected a whole number from 0 to 16777216"),
        ("[runtime]\nmax_seq_len = 9223372036854775807", "runtime.max_seq_len is"),
        ("[runtime]\nprefill_chunk_size = -2", "from -1 to"),
        ("[rope]\nfactor = nan", "is the float nan, expected a number from 1 to 1024"),
        ("[rope]\nfactor = inf", "is the float inf"),
        ("[rope]\nfactor = 1e300", "is the float 1e300"),
        ("[rope]\nfactor = 0", "is the integer 0"),
        ("[rope]\nfactor = [4]", "is an array"),
        ("[rope.factor]\n", "rope.factor is a table"),
        ("[paths]\nmodels = 3", "expected a path in quotes"),
    ] {
        assert!(refusal(text).contains(part), "{text}: {}", refusal(text));
    }
}

#[test]
fn syntax_errors_have_a_place_and_the_usual_way_out() {
    let message = refusal("[runtime]\nexact = true\n[kv_cache]\ndtype = fp8 # faster\n");
    assert!(message.starts_with("imp.conf:4:9: "), "{message}");
    assert!(message.ends_with("; a string needs quotes: dtype = \"fp8\""), "{message}");
    let message = refusal("[paths]\nmodels = /srv/models\n");
    assert!(message.ends_with("models = \"/srv/models\""), "{message}");
    assert!(refusal("[runtime\nexact = true").starts_with("imp.conf:1:"));
    assert!(refusal("[runtime]\nexact = true\nexact = false").starts_with("imp.conf:3:"));
    // Depth is the parser's concern; it must refuse, not overflow the stack.
    refusal(&format!("[runtime]\nexact = {}", "[".repeat(100_000)));
}

#[test]
fn unknown_names_get_the_nearest() {
    for (text, expected) in [
        (
            "[runtime]\nexat = true",
            "imp.conf:2:1: unknown key runtime.exat; did you mean runtime.exact?",
        ),
        (
            "[runtme]\nexact = true",
            "imp.conf:1:2: unknown section [runtme]; did you mean [runtime]?",
        ),
        (
            "[runtime]\ndtype = \"fp8\"",
            "imp.conf:2:1: unknown key runtime.dtype; did you mean kv_cache.dtype?",
        ),
        ("exact = true", "imp.conf:1:1: unknown key exact; write exact under [runtime]"),
        (
            "[kv_cache]\nzzz = 1",
            "imp.conf:2:1: unknown key kv_cache.zzz; [kv_cache] has dtype, max_blocks, host_spill_mb",
        ),
        (
            "[zzzzzzzz]",
            "imp.conf:1:2: unknown section [zzzzzzzz]; the sections are runtime, kv_cache, rope, \
             attention, paths, diagnostics",
        ),
        (
            "[[runtime]]\nexact = true",
            "imp.conf:1:3: unknown key runtime; write [runtime] in single brackets",
        ),
    ] {
        assert_eq!(refusal(text), expected);
    }
    assert_eq!(
        set_refusal("kv_cache.dtyp=fp8"),
        "--set kv_cache.dtyp=fp8: unknown key kv_cache.dtyp; did you mean kv_cache.dtype?"
    );
    assert_eq!(
        set_refusal("kvcache.dtype=fp8"),
        "--set kvcache.dtype=fp8: unknown section [kvcache]; did you mean [kv_cache]?"
    );
    assert!(refusal(&format!("[runtime]\n{} = 1", "x".repeat(300_000))).len() < 400);
}

#[test]
fn set_takes_values_bare_or_quoted() {
    let mut config = Config::default();
    for argument in [
        "kv_cache.dtype=fp8",
        " runtime.cuda_graphs = \"never\" ",
        "runtime.exact=\"true\"",
        "rope.factor=2",
        "rope.attn_factor='0.5'",
        "runtime.prefill_chunk_size=512",
        "paths.models=/a=b c",
    ] {
        config.set(argument).unwrap();
    }
    assert_eq!(config.kv_cache.dtype, KvDtype::Fp8);
    assert_eq!(config.runtime.cuda_graphs, Toggle::Never);
    assert!(config.runtime.exact);
    assert_eq!((config.rope.factor, config.rope.attn_factor), (2.0, 0.5));
    assert_eq!(config.runtime.prefill_chunk_size, 512);
    assert_eq!(config.paths.models, Path::new("/a=b c"));
    config.set("paths.models=123").unwrap();
    assert_eq!(config.paths.models, Path::new("123"));
    config.set("paths.models=").unwrap();
    assert_eq!(config.paths.models, Path::new(""));
}

#[test]
fn set_refuses_what_is_not_a_setting() {
    for argument in ["", "=", "runtime.exact", "exact=true", "runtime=true"] {
        assert!(set_refusal(argument).contains("expected section.key=value"), "{argument}");
    }
    assert_eq!(
        set_refusal("runtime.exact=yes"),
        "--set runtime.exact=yes: runtime.exact is \"yes\", expected true or false"
    );
    assert!(set_refusal("rope.factor=1e39").contains("expected a number from 1 to 1024"));
    assert!(set_refusal("rope.factor=").contains("rope.factor is \"\""));
    set_refusal("runtime.exact.deep=true");
}

#[test]
fn conflicts_are_refused() {
    let load = |sets: &[&str]| {
        let sets: Vec<_> = sets.iter().map(|s| (*s).to_owned()).collect();
        Config::load_in(&Environment::default(), Some(Path::new("/dev/null")), &sets)
    };
    assert_eq!(
        load(&["runtime.exact=true", "kv_cache.dtype=fp16"]).unwrap_err().to_string(),
        "runtime.exact = true conflicts with kv_cache.dtype = \"fp16\"; \
         exact mode keeps an F32 cache; leave kv_cache.dtype at \"auto\""
    );
    load(&["runtime.exact=true", "kv_cache.dtype=fp32"]).unwrap();
    let message = load(&["rope.factor=4"]).unwrap_err().to_string();
    assert!(
        message.starts_with("rope.factor = 4.0 conflicts with rope.scaling = \"\""),
        "{message}"
    );
    load(&["rope.factor=4", "rope.scaling=linear"]).unwrap();
}

#[test]
fn the_search_order() {
    let dir = Scratch::new("order");
    let mut environment = dir.environment();
    let log_level = |environment: &Environment, explicit: Option<&Path>, sets: &[String]| {
        let loaded = Config::load_in(environment, explicit, sets).unwrap();
        (loaded.config.diagnostics.log_level, loaded.source)
    };
    assert_eq!(log_level(&environment, None, &[]), (LogLevel::Info, None));

    let level = |word: &str| format!("[diagnostics]\nlog_level = \"{word}\"\n");
    let at_home = dir.write("home/.config/imp/imp.conf", level("error"));
    assert_eq!(log_level(&environment, None, &[]), (LogLevel::Error, Some(at_home)));
    let here = dir.write("work/imp.conf", level("warn"));
    assert_eq!(log_level(&environment, None, &[]), (LogLevel::Warn, Some(here.clone())));
    environment.imp_config = Some("".into());
    assert_eq!(log_level(&environment, None, &[]), (LogLevel::Warn, Some(here)));
    let by_variable = dir.write("work/env.conf", level("debug"));
    environment.imp_config = Some("env.conf".into());
    assert_eq!(log_level(&environment, None, &[]), (LogLevel::Debug, Some(by_variable)));
    let explicit = dir.write("explicit.conf", level("trace"));
    let found = log_level(&environment, Some(&explicit), &[]);
    assert_eq!(found, (LogLevel::Trace, Some(explicit.clone())));
    let sets = ["diagnostics.log_level=error".into(), "diagnostics.log_level=info".into()];
    assert_eq!(log_level(&environment, Some(&explicit), &sets).0, LogLevel::Info);
}

#[test]
fn named_files_must_be_readable_and_searched_ones_may_be_absent() {
    let dir = Scratch::new("unreadable");
    let mut environment = dir.environment();
    let missing = dir.0.join("missing.conf");
    let error = Config::load_in(&environment, Some(&missing), &[]).unwrap_err();
    assert!(error.to_string().ends_with("missing.conf, named by --config"), "{error}");
    environment.imp_config = Some(missing.into());
    let error = Config::load_in(&environment, None, &[]).unwrap_err();
    assert!(error.to_string().ends_with("named by $IMP_CONFIG"), "{error}");

    environment.imp_config = None;
    environment.home = None;
    dir.write("work/imp.conf/inside", "");
    let error = Config::load_in(&environment, None, &[]).unwrap_err();
    assert!(matches!(error, ConfigError::Read { .. }), "{error}");
    assert!(std::error::Error::source(&error).is_some());
}

#[test]
fn files_that_are_no_configuration_are_refused() {
    let dir = Scratch::new("other");
    let bytes = dir.write("latin1.conf", b"[runtime]\n# caf\xe9\n");
    let error = Config::load_in(&dir.environment(), Some(&bytes), &[]).unwrap_err();
    let ConfigError::NotUtf8 { origin: Origin::File { line, column, .. } } = error else {
        panic!("{error}")
    };
    assert_eq!((line, column), (2, 6));
    let endless = Path::new("/dev/zero");
    if endless.exists() {
        let error = Config::load_in(&dir.environment(), Some(endless), &[]).unwrap_err();
        assert!(matches!(error, ConfigError::TooLarge { .. }), "{error}");
    }
}

#[test]
fn the_example_parses_to_the_defaults() {
    assert_eq!(parse(&Config::example()).unwrap(), Config::default());
    for key in Key::all() {
        let mut config = Config::default();
        config.set(&format!("{}={}", key.path(), key.value(&config))).unwrap();
        assert_eq!(config, Config::default(), "{}", key.path());
    }
}

/// With `UPDATE_GOLDEN=1` the files are written instead.
#[test]
fn generated_files_are_fresh() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (name, text) in
        [("imp.conf.example", Config::example()), ("docs/CONFIG.md", Config::reference())]
    {
        let path = root.join(name);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(written == text, "{name} is stale: UPDATE_GOLDEN=1 cargo test -p config writes it");
    }
}
