//! How answers are sampled: the defaults of the manual, changed by flags and by `/set`.
//!
//! [`KEYS`] has one row per option; the flag of `key_name` is `--key-name`, with the same limits.

use host::sampling::SamplingParams;

use crate::args::{Args, parse_seed};
use crate::error::CliError;
use config::nearest;

/// What a request takes besides its prompt.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    /// How to choose tokens.
    pub(crate) sampling: SamplingParams,
    /// Most tokens to generate.
    pub(crate) max_tokens: usize,
    /// Strings that end the answer.
    pub(crate) stop: Vec<String>,
}

/// An option that `/set` knows.
struct Key {
    name: &'static str,
    about: &'static str,
    value: Value,
}

/// Where an option is kept.
enum Value {
    /// A number.
    Float(fn(&mut Settings) -> &mut f32),
    /// A whole number.
    Count(fn(&mut Settings) -> &mut u32),
    /// −1 or a number of 64 bits.
    Seed,
    /// Tokens.
    MaxTokens,
}

/// One row per [`Key`]: name, kind, what it does.
macro_rules! keys {
    ($($name:ident: $kind:ident $about:literal;)*) => {
        &[$(Key { name: stringify!($name), about: $about, value: keys!(@ $kind $name) }),*]
    };
    (@ Float $name:ident) => { Value::Float(|s| &mut s.sampling.$name) };
    (@ Count $name:ident) => { Value::Count(|s| &mut s.sampling.$name) };
    (@ Seed $name:ident) => { Value::Seed };
    (@ MaxTokens $name:ident) => { Value::MaxTokens };
}

const KEYS: &[Key] = keys! {
    temperature: Float "0 = greedy";
    dynatemp_range: Float "width of the dynamic temperature, 0 = off";
    dynatemp_exponent: Float "exponent of the dynamic temperature";
    top_k: Count "keep the n best, 0 = off";
    top_p: Float "nucleus, 1 = off";
    min_p: Float "least share of the best probability, 0 = off";
    typical_p: Float "locally typical, 1 = off";
    top_n_sigma: Float "standard deviations below the best, ≤ 0 = off";
    xtc_probability: Float "chance that XTC acts, 0 = off";
    xtc_threshold: Float "probability above which XTC removes";
    repeat_penalty: Float "multiplies down seen tokens, 1 = off";
    repeat_last_n: Count "window of the penalties, 0 = all tokens";
    frequency_penalty: Float "a time seen, 0 = off";
    presence_penalty: Float "once seen, 0 = off";
    dry_multiplier: Float "DRY scale, 0 = off";
    dry_base: Float "DRY base";
    dry_allowed_length: Count "longest repeat that DRY leaves alone";
    dry_penalty_last_n: Count "window of DRY, 0 = all";
    mirostat: Count "0 = off, 2 = v2";
    mirostat_tau: Float "target surprise of Mirostat";
    mirostat_eta: Float "learning rate of Mirostat";
    seed: Seed "-1 = random";
    max_tokens: MaxTokens "most tokens of an answer";
};

impl Default for Settings {
    /// The defaults of the manual.
    fn default() -> Self {
        let sampling =
            SamplingParams { temperature: 0.7, top_p: 0.9, top_k: 40, ..SamplingParams::default() };
        Self { sampling, max_tokens: 256, stop: Vec::new() }
    }
}

impl Settings {
    /// Defaults changed by the flags that were given.
    ///
    /// # Errors
    /// `BadArgument` naming the flag and its limits.
    pub(crate) fn from_args(args: &Args) -> Result<Self, CliError> {
        let mut settings = Self { stop: args.stop.clone(), ..Self::default() };
        let floats = [
            ("temperature", args.temperature),
            ("top_p", args.top_p),
            ("min_p", args.min_p),
            ("typical_p", args.typical_p),
            ("repeat_penalty", args.repeat_penalty),
            ("frequency_penalty", args.frequency_penalty),
            ("presence_penalty", args.presence_penalty),
            ("dry_multiplier", args.dry_multiplier),
            ("dry_base", args.dry_base),
        ];
        let counts = [
            ("top_k", args.top_k),
            ("repeat_last_n", args.repeat_last_n),
            ("dry_allowed_length", args.dry_allowed_length),
            ("dry_penalty_last_n", args.dry_penalty_last_n),
            ("mirostat", args.mirostat),
        ];
        let texts = floats
            .iter()
            .filter_map(|(name, value)| Some((*name, value.as_ref()?.to_string())))
            .chain(
                counts
                    .iter()
                    .filter_map(|(name, value)| Some((*name, value.as_ref()?.to_string()))),
            );
        for (name, text) in texts {
            settings.set(name, &text).map_err(|message| {
                CliError::BadArgument(format!(
                    "--{}",
                    message.replacen('_', "-", name.matches('_').count())
                ))
            })?;
        }
        if let Some(seed) = args.seed {
            settings.sampling.seed = seed.0;
        }
        if let Some(max_tokens) = args.max_tokens {
            settings.max_tokens = max_tokens;
        }
        Ok(settings)
    }

    /// Changes one option.
    ///
    /// # Errors
    /// Names the option and its limits, or the nearest known option.
    pub(crate) fn set(&mut self, name: &str, text: &str) -> Result<(), String> {
        let Some(key) = KEYS.iter().find(|key| key.name == name) else {
            return Err(match nearest(name, KEYS.iter().map(|key| key.name)) {
                Some(known) => format!("{name}: unknown option; did you mean {known}?"),
                None => format!("{name}: unknown option; /set lists them"),
            });
        };
        let wrong = |expected: &str| format!("{name} is {text}, expected {expected}");
        let mut changed = self.clone();
        match key.value {
            Value::Float(place) => {
                *place(&mut changed) = text.parse().map_err(|_| wrong("a number"))?;
            }
            Value::Count(place) => {
                *place(&mut changed) = text.parse().map_err(|_| wrong("a whole number from 0"))?;
            }
            Value::Seed => changed.sampling.seed = parse_seed(text).map_err(|e| wrong(&e))?.0,
            Value::MaxTokens => {
                changed.max_tokens = text.parse().map_err(|_| wrong("a whole number from 0"))?;
            }
        }
        // no option here names a token, so any vocabulary will do
        changed.sampling.validate(usize::MAX).map_err(|error| error.to_string())?;
        *self = changed;
        Ok(())
    }

    /// A line per option: name, value, what it does.
    pub(crate) fn list(&self) -> String {
        let mut settings = self.clone(); // the accessors give places to write to
        let mut lines = String::new();
        for key in KEYS {
            let value = match key.value {
                Value::Float(place) => place(&mut settings).to_string(),
                Value::Count(place) => place(&mut settings).to_string(),
                Value::Seed => {
                    settings.sampling.seed.map_or("-1".to_owned(), |seed| seed.to_string())
                }
                Value::MaxTokens => settings.max_tokens.to_string(),
            };
            lines.push_str(&format!("  {:<20} {value:<12} {}\n", key.name, key.about));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Parsed, parse};

    fn from(line: &[&str]) -> Result<Settings, CliError> {
        let arguments: Vec<String> = line.iter().map(|s| (*s).to_owned()).collect();
        match parse("imp-cli", &arguments)? {
            Parsed::Args(args) => Settings::from_args(&args),
            Parsed::Help(_) => panic!("no help was asked for"),
        }
    }

    #[test]
    fn the_defaults_are_those_of_the_manual() {
        let Settings { sampling: s, max_tokens, stop } = from(&[]).unwrap();
        assert_eq!(
            (s.temperature, s.top_p, s.top_k, s.min_p, s.typical_p),
            (0.7, 0.9, 40, 0.0, 1.0)
        );
        assert_eq!((s.repeat_penalty, s.repeat_last_n), (1.0, 0));
        assert_eq!((s.frequency_penalty, s.presence_penalty), (0.0, 0.0));
        assert_eq!((s.dry_multiplier, s.dry_base), (0.0, 1.75));
        assert_eq!((s.dry_allowed_length, s.dry_penalty_last_n), (2, 0));
        assert_eq!((s.mirostat, s.seed, max_tokens), (0, None, 256));
        assert!(stop.is_empty());
    }

    #[test]
    fn flags_reach_their_option() {
        let line = "--temperature 0.1 --top-p 0.2 --top-k 3 --min-p 0.4 --typical-p 0.5 --repeat-penalty 1.6 \
                    --repeat-last-n 7 --frequency-penalty -0.8 --presence-penalty 0.9 --seed 10 \
                    --dry-multiplier 1.1 --dry-base 1.2 --dry-allowed-length 13 --dry-penalty-last-n 14 \
                    --mirostat 2 --max-tokens 15";
        let s = from(&line.split_whitespace().collect::<Vec<_>>()).unwrap();
        assert_eq!(s.max_tokens, 15);
        let s = s.sampling;
        assert_eq!(
            (s.temperature, s.top_p, s.top_k, s.min_p, s.typical_p),
            (0.1, 0.2, 3, 0.4, 0.5)
        );
        assert_eq!((s.repeat_penalty, s.repeat_last_n), (1.6, 7));
        assert_eq!((s.frequency_penalty, s.presence_penalty), (-0.8, 0.9));
        assert_eq!((s.dry_multiplier, s.dry_base), (1.1, 1.2));
        assert_eq!((s.dry_allowed_length, s.dry_penalty_last_n), (13, 14));
        assert_eq!((s.mirostat, s.seed), (2, Some(10)));
    }

    #[test]
    fn values_outside_their_limits_are_refused_by_flag() {
        for (flag, value, expected) in [
            ("--temperature", "NaN", "--temperature is NaN, expected a number from 0"),
            ("--temperature", "-1", "--temperature is -1"),
            ("--temperature", "1e300", "--temperature is inf"),
            ("--top-p", "1.5", "--top-p is 1.5, expected a number from 0 to 1"),
            ("--repeat-penalty", "0", "--repeat-penalty is 0, expected a number from 0.01"),
            ("--dry-base", "0.5", "--dry-base is 0.5"),
            ("--mirostat", "1", "--mirostat is 1, expected 0 (off) or 2"),
            ("--seed", "-2", "-1 (random)"),
            ("--top-k", "-1", "--top-k"),
        ] {
            let error = from(&[flag, value]).unwrap_err();
            assert_eq!(error.code(), 1, "{flag} {value}");
            assert!(error.to_string().contains(expected), "{flag} {value}: {error}");
        }
    }

    #[test]
    fn every_listed_option_can_be_set_to_what_it_shows() {
        let settings = Settings::default();
        let mut copy = settings.clone();
        let list = settings.list();
        assert_eq!(list.lines().count(), KEYS.len());
        for line in list.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            copy.set(words[0], words[1]).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        assert_eq!(copy, settings);
    }

    #[test]
    fn unknown_options_name_the_nearest() {
        let mut settings = Settings::default();
        assert!(settings.set("temprature", "1").unwrap_err().contains("did you mean temperature?"));
        assert!(settings.set("colour", "1").unwrap_err().contains("/set lists them"));
        assert_eq!(settings, Settings::default());
    }
}
