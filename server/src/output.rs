//! How the answers of a request are bound and read: what their text must be, which tools it may
//! call, where thoughts end. One place hands all of that to the engine and to the parser.

use host::constrain::tools::{self, ToolChoice};
use host::constrain::{Constraint, ConstraintError, GrammarSpec, ThinkBudget};
use host::text::output::Tool;
use host::text::{OutputSettings, ReasoningFormat, ThinkMarkers, ToolFormat};
use serde_json::Value;

pub use host::text::Piece;

use crate::http::ApiError;
use crate::state::Loaded;

/// What a request asks of its answers.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Tools in OpenAI's shape.
    pub tools: Vec<Value>,
    /// Which of them must be called.
    pub choice: ToolChoice,
    /// Whether several may be called in one answer.
    pub parallel: bool,
    /// What the text must be, and the field that says so.
    pub grammar: Option<(String, GrammarSpec)>,
    /// What becomes of thoughts; `None` is the server's default.
    pub reasoning: Option<ReasoningFormat>,
    /// Most tokens of thoughts; `None` is the server's share.
    pub think_budget: Option<usize>,
}

/// How the answers of a request are bound and read.
#[derive(Clone, Debug)]
pub struct Reading {
    /// How their text is split.
    pub settings: OutputSettings,
    /// Control tokens that come as text, for the parser to see.
    pub shown_tokens: Vec<u32>,
    /// What their text must be.
    pub constraint: Option<Constraint>,
    /// The bound of their thoughts.
    pub think_budget: Option<ThinkBudget>,
    /// Whether they may call several tools.
    pub parallel: bool,
}

impl Reading {
    /// All text is content, as it comes.
    pub fn plain() -> Self {
        let settings = OutputSettings {
            format: ToolFormat::NONE,
            tools: vec![],
            reasoning: None,
            reasoning_opened: false,
        };
        Self {
            settings,
            shown_tokens: vec![],
            constraint: None,
            think_budget: None,
            parallel: true,
        }
    }

    /// The same under a grammar.
    ///
    /// # Errors
    /// 400 naming the field of a grammar that cannot be compiled.
    pub fn constrained(
        loaded: &Loaded,
        grammar: Option<(String, GrammarSpec)>,
    ) -> Result<Self, ApiError> {
        let constraint = grammar.map(|(field, spec)| compile(loaded, &field, &spec)).transpose()?;
        Ok(Self { constraint, ..Self::plain() })
    }

    /// For a chat with this prompt, whose answers may take `max_tokens`.
    ///
    /// # Errors
    /// 400 naming the field that cannot be honoured.
    pub fn new(
        loaded: &Loaded,
        mut wish: Wish,
        prompt: &str,
        max_tokens: usize,
    ) -> Result<Self, ApiError> {
        // who names a tool wants it called, once
        wish.parallel &= !matches!(wish.choice, ToolChoice::Named(_));
        let format = loaded.tool_format;
        if !wish.tools.is_empty() && format == ToolFormat::NONE {
            let problem = "the model's chat template writes no tool calls: take a model that knows \
                           them, or ask without tools (tool_choice \"none\")";
            return Err(ApiError::field("tools", problem).code("unsupported"));
        }
        let template = loaded.engine.template().map(|t| t.source()).unwrap_or_default();
        let wanted = wish.reasoning.unwrap_or(loaded.reasoning);
        let markers = ThinkMarkers::choose(wanted, template, format);
        let opened = markers.is_some_and(|markers| markers.opened_by(prompt));
        let tools: Vec<Tool> = wish.tools.iter().map(tool).collect();
        let constraint = constraint(loaded, &wish, &tools)?;
        let constraint = match (constraint, &markers) {
            (Some(constraint), Some(markers)) => Some(constraint.after_reasoning(markers, opened)),
            (constraint, _) => constraint,
        };
        let think_budget = match (&markers, budget(loaded, &wish, max_tokens)) {
            (Some(markers), Some(tokens)) => {
                let budget = ThinkBudget::new(loaded.tokenizer.clone(), markers, opened, tokens);
                Some(budget.map_err(|error| ApiError::internal(error.to_string()))?)
            }
            _ => None,
        };
        let settings =
            OutputSettings { format, tools, reasoning: markers, reasoning_opened: opened };
        let shown_tokens = settings.shown_tokens(&loaded.tokenizer);
        let parallel = wish.parallel;
        Ok(Self { settings, shown_tokens, constraint, think_budget, parallel })
    }
}

/// Most tokens of thoughts: what was asked for, else the server's share of the answer.
fn budget(loaded: &Loaded, wish: &Wish, max_tokens: usize) -> Option<usize> {
    let most = max_tokens.min(loaded.engine.info().max_seq_len);
    let share = (loaded.think_budget > 0.0).then_some((most as f64 * loaded.think_budget) as usize);
    wish.think_budget.or(share)
}

/// What `api::prompt` made of a definition, as the parser and the grammar want it.
fn tool(tool: &Value) -> Tool {
    let function = &tool["function"];
    let name = function["name"].as_str().unwrap_or_default().to_owned();
    Tool { name, parameters: function["parameters"].clone() }
}

fn constraint(
    loaded: &Loaded,
    wish: &Wish,
    tools: &[Tool],
) -> Result<Option<Constraint>, ApiError> {
    let (format, tokenizer) = (loaded.tool_format, &loaded.tokenizer);
    let calls = tools::grammar(tools, &wish.choice, wish.parallel, format, tokenizer);
    match (calls.map_err(bad_tools)?, &wish.grammar) {
        (None, None) => Ok(None),
        (None, Some((field, spec))) => {
            let alone = compile(loaded, field, spec)?;
            if tools.is_empty() {
                return Ok(Some(alone));
            }
            // An answer is calls, or text of the grammar.
            let calls = tools::calls(tools, &wish.choice, wish.parallel, format, tokenizer);
            let calls = calls.map_err(bad_tools)?;
            compile(loaded, "tools", &GrammarSpec::CallsOr(calls, Box::new(spec.clone()))).map(Some)
        }
        (Some(_), Some((field, _))) => {
            let problem = "cannot be combined with a tool_choice that asks for a call";
            Err(ApiError::field(field.clone(), problem))
        }
        (Some(calls), None) => compile(loaded, "tools", &GrammarSpec::ToolCalls(calls)).map(Some),
    }
}

fn compile(loaded: &Loaded, field: &str, spec: &GrammarSpec) -> Result<Constraint, ApiError> {
    loaded.grammars.compile(spec).map_err(|error| refusal(field, &error))
}

/// The fault is that of the choice, or of a tool.
fn bad_tools(error: ConstraintError) -> ApiError {
    match error {
        ConstraintError::Tools(problem) => ApiError::field("tool_choice", problem),
        error => refusal("tools", &error),
    }
}

fn refusal(field: &str, error: &ConstraintError) -> ApiError {
    ApiError::field(field, error.to_string())
}
