//! Fields that say what the text of an answer must be, in every spelling that clients use.

use host::constrain::GrammarSpec;

use super::json::Fields;
use super::sampling::texts;
use crate::http::ApiError;
use crate::limits::GUIDED_CHOICES;

/// What the text must be, in every spelling, with the field that says so.
///
/// # Errors
/// 400 naming the field.
pub fn grammar(fields: &Fields<'_>) -> Result<Option<(String, GrammarSpec)>, ApiError> {
    one_of(fields, None)
}

/// The same where a dialect has a spelling of its own, which `own` is.
///
/// # Errors
/// As of [`grammar`].
pub fn one_of(
    fields: &Fields<'_>,
    own: Option<(String, GrammarSpec)>,
) -> Result<Option<(String, GrammarSpec)>, ApiError> {
    let text = |name| fields.text(name).map(|text| text.filter(|text| !text.is_empty()));
    let schema = |name| fields.get(name).cloned().map(GrammarSpec::JsonSchema);
    let owned = str::to_owned;
    let found = [
        ("response_format", response_format(fields)?),
        ("json_schema", schema("json_schema")),
        ("guided_json", schema("guided_json")),
        ("grammar", text("grammar")?.map(owned).map(GrammarSpec::Gbnf)),
        ("guided_regex", text("guided_regex")?.map(owned).map(GrammarSpec::Regex)),
        ("guided_grammar", text("guided_grammar")?.map(owned).map(GrammarSpec::Lark)),
        ("guided_choice", choices(fields, "guided_choice")?),
        ("structured_outputs", structured_outputs(fields)?),
    ];
    let common = found.into_iter().filter_map(|(name, spec)| Some((fields.path(name), spec?)));
    let mut found = own.into_iter().chain(common);
    match (found.next(), found.next()) {
        (Some((first, _)), Some((second, _))) => {
            Err(ApiError::field(second, format!("cannot be combined with {first}")))
        }
        (found, _) => Ok(found),
    }
}

/// A list of texts of which the answer is one.
fn choices(fields: &Fields<'_>, name: &str) -> Result<Option<GrammarSpec>, ApiError> {
    let list = fields.list(name, GUIDED_CHOICES)?.unwrap_or(&[]);
    let choices = texts(list, &fields.path(name))?;
    if let Some(index) = choices.iter().position(String::is_empty) {
        return Err(fields.error(&format!("{name}[{index}]"), "is empty"));
    }
    Ok((!choices.is_empty()).then_some(GrammarSpec::Choice(choices)))
}

/// vLLM's newer spelling of the `guided_` fields: one of them, in an object.
fn structured_outputs(fields: &Fields<'_>) -> Result<Option<GrammarSpec>, ApiError> {
    let Some(inner) = fields.object("structured_outputs")? else { return Ok(None) };
    let mut found = vec![];
    for (name, value) in inner.map().iter().filter(|(_, value)| !value.is_null()) {
        let text = || inner.needed_text(name).map(str::to_owned);
        match name.as_str() {
            "json" => found.push(GrammarSpec::JsonSchema(value.clone())),
            "regex" => found.push(GrammarSpec::Regex(text()?)),
            "grammar" => found.push(GrammarSpec::Lark(text()?)),
            "choice" => found.extend(choices(&inner, name)?),
            "json_object" if inner.flag(name, false)? => found.push(GrammarSpec::JsonObject),
            "structural_tag" => {
                return Err(inner.error(name, "is not supported yet").code("unsupported"));
            }
            _ => {}
        }
    }
    if found.len() > 1 {
        return Err(fields.error("structured_outputs", "names more than one kind of text"));
    }
    Ok(found.pop())
}

/// `format` of a field that says how the text must look, in OpenAI's responses and Anthropic's messages.
///
/// # Errors
/// 400 naming the field.
pub fn format(parent: &Fields<'_>) -> Result<Option<(String, GrammarSpec)>, ApiError> {
    let Some(format) = parent.object("format")? else { return Ok(None) };
    let spec = match format.needed_text("type")? {
        "text" => return Ok(None),
        "json_object" => GrammarSpec::JsonObject,
        "json_schema" => {
            let missing = || format.error("schema", "is missing");
            GrammarSpec::JsonSchema(format.get("schema").cloned().ok_or_else(missing)?)
        }
        other => {
            let problem = format!("is {other:?}, expected text, json_object or json_schema");
            return Err(format.error("type", problem));
        }
    };
    Ok(Some((parent.path("format"), spec)))
}

fn response_format(fields: &Fields<'_>) -> Result<Option<GrammarSpec>, ApiError> {
    let Some(format) = fields.object("response_format")? else { return Ok(None) };
    match format.needed_text("type")? {
        "text" => Ok(None),
        "json_object" => Ok(Some(GrammarSpec::JsonObject)),
        "json_schema" => {
            let named = format.object("json_schema")?;
            let schema = named.as_ref().and_then(|named| named.get("schema"));
            let missing = || format.error("json_schema.schema", "is missing");
            Ok(Some(GrammarSpec::JsonSchema(schema.ok_or_else(missing)?.clone())))
        }
        other => Err(format
            .error("type", format!("is {other:?}, expected text, json_object or json_schema"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn one_field_says_what_the_text_is() {
        let read = |body: Value| grammar(&Fields::new(body.as_object().unwrap()));
        let nothing =
            json!({"response_format": {"type": "text"}, "grammar": "", "guided_regex": null});
        assert_eq!(read(nothing).unwrap(), None);
        let two = json!({"grammar": "root ::= \"a\"", "guided_regex": "b"});
        let error = read(two).unwrap_err();
        assert_eq!(error.message, "guided_regex: cannot be combined with grammar");
    }

    #[test]
    fn one_of_several_texts_can_be_asked_for_in_both_spellings() {
        let read = |body: Value| grammar(&Fields::new(body.as_object().unwrap()));
        let choice = |field: &str| {
            let texts = vec!["a".to_owned(), "b".to_owned()];
            Some((field.to_owned(), GrammarSpec::Choice(texts)))
        };
        assert_eq!(read(json!({"guided_choice": ["a", "b"]})).unwrap(), choice("guided_choice"));
        let newer = json!({"structured_outputs": {"choice": ["a", "b"], "json": null}});
        assert_eq!(read(newer).unwrap(), choice("structured_outputs"));
        let regex = read(json!({"structured_outputs": {"regex": "a"}})).unwrap().unwrap();
        assert_eq!(regex.1, GrammarSpec::Regex("a".to_owned()));
        assert_eq!(read(json!({"guided_choice": [], "structured_outputs": {}})).unwrap(), None);
        for (body, param) in [
            (json!({"guided_choice": ["a", ""]}), "guided_choice[1]"),
            (json!({"guided_choice": "a"}), "guided_choice"),
            (json!({"guided_choice": vec!["a"; GUIDED_CHOICES + 1]}), "guided_choice"),
            (json!({"structured_outputs": {"regex": "a", "choice": ["a"]}}), "structured_outputs"),
            (json!({"structured_outputs": {"regex": 1}}), "structured_outputs.regex"),
            (json!({"structured_outputs": ["a"]}), "structured_outputs"),
            (
                json!({"structured_outputs": {"structural_tag": "a"}}),
                "structured_outputs.structural_tag",
            ),
        ] {
            assert_eq!(read(body).unwrap_err().param.as_deref(), Some(param));
        }
    }
}
