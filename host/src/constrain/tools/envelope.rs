//! How each family writes calls: a row of [`ENVELOPES`].

/// How a family writes a call. Control tokens are spelled in the texts.
pub(super) struct Envelope {
    /// The name of its [`ToolFormat`].
    pub format: &'static str,
    /// Before all calls.
    pub begin: &'static str,
    /// Before a name.
    pub open: &'static str,
    /// Between name and arguments.
    pub middle: &'static str,
    /// Behind the name, a number that is the call's own.
    pub numbered: bool,
    /// Behind the arguments.
    pub close: &'static str,
    /// Between calls; `None` where the family makes one at a time.
    pub between: Option<&'static str>,
    /// Behind all calls.
    pub end: &'static str,
    pub arguments: Notation,
    /// Only where the vocabulary has this control token.
    pub needs: Option<&'static str>,
}

/// How arguments are written.
#[derive(Clone, Copy)]
pub(super) enum Notation {
    Json,
    Parameters(&'static Tags),
    Gemma,
}

/// What a family writes around a parameter.
pub(super) struct Tags {
    /// In front of its name.
    pub open: &'static str,
    /// Between name and value.
    pub named: &'static str,
    /// Behind the value.
    pub close: &'static str,
}

/// Its calls stand behind reasoning in a channel of its own.
pub(super) const HARMONY: &str = "harmony";

const PLAIN: Envelope = Envelope {
    format: "",
    begin: "",
    open: "",
    middle: "",
    numbered: false,
    close: "",
    between: None,
    end: "",
    arguments: Notation::Json,
    needs: None,
};

/// Of several rows of a format the first that the vocabulary has the tokens for counts.
pub(super) const ENVELOPES: &[Envelope] = &[
    Envelope {
        format: "hermes",
        open: "<tool_call>\n{\"name\": \"",
        middle: "\", \"arguments\": ",
        close: "}\n</tool_call>",
        between: Some("\n"),
        ..PLAIN
    },
    Envelope {
        format: "llama3",
        open: "{\"name\": \"",
        middle: "\", \"parameters\": ",
        close: "}",
        ..PLAIN
    },
    Envelope {
        format: "mistral",
        open: "[TOOL_CALLS]",
        middle: "[ARGS]",
        between: Some(""),
        needs: Some("[ARGS]"),
        ..PLAIN
    },
    Envelope {
        format: "mistral",
        begin: "[TOOL_CALLS][",
        open: "{\"name\": \"",
        middle: "\", \"arguments\": ",
        close: "}",
        between: Some(", "),
        end: "]",
        ..PLAIN
    },
    Envelope {
        format: "qwen3-coder",
        open: "<tool_call>\n<function=",
        middle: ">\n",
        close: "</function>\n</tool_call>",
        between: Some("\n"),
        arguments: Notation::Parameters(&Tags {
            open: "<parameter=",
            named: ">\n",
            close: "\n</parameter>\n",
        }),
        ..PLAIN
    },
    Envelope {
        format: "seed-oss",
        open: "<seed:tool_call>\n<function=",
        middle: ">\n",
        close: "</function>\n</seed:tool_call>",
        between: Some("\n"),
        arguments: Notation::Parameters(&Tags {
            open: "<parameter=",
            named: ">",
            close: "</parameter>\n",
        }),
        ..PLAIN
    },
    Envelope {
        format: "minimax-m2",
        begin: "<minimax:tool_call>\n",
        open: "<invoke name=\"",
        middle: "\">\n",
        close: "</invoke>",
        between: Some("\n"),
        end: "\n</minimax:tool_call>",
        arguments: Notation::Parameters(&Tags {
            open: "<parameter name=\"",
            named: "\">",
            close: "</parameter>\n",
        }),
        ..PLAIN
    },
    Envelope {
        format: "glm-4.5",
        open: "<tool_call>",
        middle: "\n",
        close: "</tool_call>",
        between: Some("\n"),
        arguments: Notation::Parameters(&Tags {
            open: "<arg_key>",
            named: "</arg_key>\n<arg_value>",
            close: "</arg_value>\n",
        }),
        ..PLAIN
    },
    Envelope {
        format: "glm-4.7",
        open: "<tool_call>",
        close: "</tool_call>",
        between: Some(""),
        arguments: Notation::Parameters(&Tags {
            open: "<arg_key>",
            named: "</arg_key><arg_value>",
            close: "</arg_value>",
        }),
        ..PLAIN
    },
    Envelope {
        format: "kimi-k2",
        begin: "<|tool_calls_section_begin|>",
        open: "<|tool_call_begin|>functions.",
        numbered: true,
        middle: "<|tool_call_argument_begin|>",
        close: "<|tool_call_end|>",
        between: Some(""),
        end: "<|tool_calls_section_end|>",
        ..PLAIN
    },
    Envelope {
        format: "gemma",
        open: "```tool_code\n{\"name\": \"",
        middle: "\", \"parameters\": ",
        close: "}\n```",
        between: Some("\n"),
        ..PLAIN
    },
    Envelope {
        format: "gemma4",
        open: "<|tool_call>call:",
        close: "<tool_call|>",
        between: Some(""),
        arguments: Notation::Gemma,
        ..PLAIN
    },
    Envelope {
        format: "deepseek",
        begin: "<｜tool▁calls▁begin｜>",
        open: "<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
        middle: "\n```json\n",
        close: "\n```<｜tool▁call▁end｜>",
        between: Some("\n"),
        end: "<｜tool▁calls▁end｜>",
        ..PLAIN
    },
    Envelope {
        format: "deepseek-v3.1",
        begin: "<｜tool▁calls▁begin｜>",
        open: "<｜tool▁call▁begin｜>",
        middle: "<｜tool▁sep｜>",
        close: "<｜tool▁call▁end｜>",
        between: Some(""),
        end: "<｜tool▁calls▁end｜>",
        ..PLAIN
    },
    Envelope {
        format: HARMONY,
        open: "<|channel|>commentary to=functions.",
        middle: " <|constrain|>json<|message|>",
        ..PLAIN
    },
];

/// What is a control token in the vocabularies that have it.
pub(super) const CONTROL: &[&str] = &[
    "[TOOL_CALLS]",
    "[ARGS]",
    "<tool_call>",
    "</tool_call>",
    "<|tool_call>",
    "<tool_call|>",
    "<|\"|>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁calls▁end｜>",
    "<seed:tool_call>",
    "</seed:tool_call>",
    "<minimax:tool_call>",
    "</minimax:tool_call>",
    "<arg_key>",
    "</arg_key>",
    "<arg_value>",
    "</arg_value>",
    "<|tool_calls_section_begin|>",
    "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
    "<|tool_calls_section_end|>",
    "<|channel|>",
    "<|constrain|>",
    "<|message|>",
    "<|start|>",
    "<|end|>",
];
