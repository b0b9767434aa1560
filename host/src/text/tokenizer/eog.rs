//! Which tokens end a generation, found by their well-known spellings.
//!
//! Checkpoints name one EOS; chat models end their turns with others, which converters often
//! leave out. The list is that of llama.cpp (`special_eog_ids`).

use super::source::TokenKind;

/// Ends a turn or a text, whatever the model.
fn ends_generation(text: &str) -> bool {
    matches!(
        text,
        "<|eot_id|>"
            | "<|im_end|>"
            | "<|end|>"
            | "<|return|>"
            | "<|call|>"
            | "<|flush|>"
            | "<|calls|>"
            | "<end_of_turn>"
            | "<|endoftext|>"
            | "</s>"
            | "<|eom_id|>"
            | "<EOT>"
            | "_<EOT>"
            | "[EOT]"
            | "[EOS]"
            | "<|end_of_text|>"
            | "<end_of_utterance>"
            | "<eos>"
            | "<turn|>"
            | "<|tool_response>"
            | "<｜end▁of▁sentence｜>"
            | "[e~["
    )
}

/// Separates files or repositories in fill-in-the-middle data; no answer goes past one.
/// The first of each group counts.
const FILE_BREAKS: [&[&str]; 3] = [
    &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"],
    &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"],
    &["<|file_sep|>"],
];

/// Marks the ends of generation among `tokens` as control tokens, whatever the file calls them,
/// and returns their ids in order. `named` are those that the checkpoint names itself.
pub(super) fn find<'a>(
    tokens: impl Iterator<Item = (u32, &'a str)> + Clone,
    kinds: &mut [TokenKind],
    named: impl IntoIterator<Item = u32>,
) -> Vec<u32> {
    let mut ends: Vec<u32> =
        tokens.clone().filter(|(_, text)| ends_generation(text)).map(|(id, _)| id).collect();
    for group in FILE_BREAKS {
        ends.extend(tokens.clone().find(|(_, text)| group.contains(text)).map(|(id, _)| id));
    }
    let has = |text: &str| tokens.clone().any(|(_, t)| t == text);
    // In these formats a message may end without the turn ending.
    let harmony = has("<|call|>") && has("<|return|>");
    let solar = (has("<|call|>") || has("<|calls|>")) && has("<|flush|>");
    if harmony || solar {
        ends.retain(|id| !tokens.clone().any(|(i, t)| i == *id && t == "<|end|>"));
    }
    let gemma4 = has("<|tool_response>");
    for (id, text) in tokens {
        if gemma4 && text == "</s>" {
            // A piece of HTML there, not an end.
            ends.retain(|end| *end != id);
        } else if ends.contains(&id) || text == "<|end|>" {
            set_control(kinds, id);
        }
    }
    for id in named {
        set_control(kinds, id);
        ends.push(id);
    }
    ends.sort_unstable();
    ends.dedup();
    ends
}

fn set_control(kinds: &mut [TokenKind], id: u32) {
    if let Some(kind) = kinds.get_mut(id as usize)
        && *kind != TokenKind::Unknown
    {
        *kind = TokenKind::Control;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(tokens: &[&str], named: &[u32]) -> Vec<u32> {
        let mut kinds = vec![TokenKind::Normal; tokens.len()];
        let ends = find(
            tokens.iter().enumerate().map(|(i, t)| (i as u32, *t)),
            &mut kinds,
            named.iter().copied(),
        );
        for id in &ends {
            assert_eq!(kinds[*id as usize], TokenKind::Control);
        }
        ends
    }

    #[test]
    fn spellings_and_named_ids_end_generation() {
        assert_eq!(ends(&["a", "<|im_end|>", "<|endoftext|>", "b"], &[3]), [1, 2, 3]);
        assert_eq!(ends(&["<|repo_name|>", "<reponame>", "<|file_sep|>"], &[]), [0, 2]);
    }

    #[test]
    fn the_end_of_a_message_is_not_the_end_in_harmony() {
        assert_eq!(ends(&["<|end|>", "<|return|>", "<|call|>"], &[]), [1, 2]);
        assert_eq!(ends(&["<|end|>", "<|endoftext|>"], &[]), [0, 1]);
    }

    #[test]
    fn gemma4_has_html_in_its_vocabulary() {
        assert_eq!(ends(&["</s>", "<|tool_response>", "<turn|>"], &[]), [1, 2]);
        assert_eq!(ends(&["</s>", "<s>"], &[]), [0]);
    }
}
