//! `shiftformer generate`.

use super::failure::{Failure, Verdict};
use super::inspect::read_model;
use super::output;
use serde::Serialize;
use shiftformer::RunFault;
use shiftformer::kernels::Portable;
use shiftformer::text::{Logits, ONE, Sampler, Sampling, Tokenizer};
use shiftformer_convert::model_file::{ModelFile, integers};
use shiftformer_convert::tokenizer::encode;
use shiftformer_lab::sequence::{self, Decoder, SequenceRunError};
use std::path::PathBuf;
use std::time::Instant;

// A comment for rustdoc would become the description of the command.
#[expect(missing_docs)]
#[derive(clap::Args)]
pub struct Args {
    /// The model, converted with --context.
    file: PathBuf,
    /// Text to continue; the model needs a tokenizer (`convert --tokenizer`).
    #[arg(long, value_name = "TEXT", required_unless_present = "prompt_ids", conflicts_with = "prompt_ids")]
    prompt: Option<String>,
    /// Tokens to continue.
    #[arg(long, value_name = "ID,ID,..", value_delimiter = ',')]
    prompt_ids: Vec<u32>,
    /// Tokens to generate; fewer where the context ends before.
    #[arg(long, value_name = "N", default_value_t = 64)]
    tokens: usize,
    /// Logits are divided by it; 0 takes the most likely token.
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f64,
    /// Draw among the K most likely tokens; 0 for all.
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: u32,
    /// Draw among the most likely tokens that together have this share.
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f64,
    /// Make tokens that are there already less likely; 1 is no penalty.
    #[arg(long, value_name = "R", default_value_t = 1.0)]
    repetition_penalty: f64,
    /// The same seed gives the same tokens on every backend.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Where to run: portable, native, gpu, qemu:BOARD. All give the same tokens.
    #[arg(long, default_value = "native")]
    backend: String,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// What a prompt was continued with.
#[derive(Serialize)]
pub struct GenerateOutput<'a> {
    file: String,
    backend: &'a str,
    /// Tokens of the prompt.
    pub prompt: Vec<u32>,
    /// Tokens that were generated.
    pub tokens: Vec<u32>,
    /// The tokens as text, where the model has a tokenizer.
    pub text: Option<String>,
    /// Seconds until the first token is known.
    pub first_token_s: f64,
    /// Prompt tokens per second.
    prompt_tokens_per_s: f64,
    /// Generated tokens per second, the first aside; `None` where there are none.
    pub tokens_per_s: Option<f64>,
    /// Positions taken of the context.
    pub position: u32,
    /// Positions that there are.
    pub context: usize,
    state_bytes: usize,
    arena_bytes: usize,
}

/// What a run gave.
struct Generated {
    tokens: Vec<u32>,
    first: f64,
    rest: f64,
    position: u32,
}

pub fn run(args: &Args) -> Result<Verdict, Failure> {
    let model = read_model(&args.file)?;
    let made = continued(args, &model, &mut |part| {
        if !args.json {
            output::print(part);
        }
    })?;
    if args.json {
        output::json(&made)?;
        return Ok(Verdict::Passed);
    }
    output::print("\n");
    let rate = made.tokens_per_s.map_or_else(String::new, |rate| format!(", then {rate:.1} tokens/s"));
    output::status(&format!("first token after {:.2} ms{rate}", made.first_token_s * 1e3));
    if made.tokens.len() < args.tokens {
        output::status(&format!("the context of {} positions ends here", made.context));
    }
    Ok(Verdict::Passed)
}

/// Continues the prompt in `args`; `write` is given the text, or the ids, as they come.
///
/// # Errors
/// [`Failure`]; each says what to change.
pub fn continued<'a>(
    args: &'a Args,
    model: &ModelFile,
    write: &mut dyn FnMut(&str),
) -> Result<GenerateOutput<'a>, Failure> {
    let shape = sequence::shape(model)?;
    let opened = model.open::<Portable>().map_err(|e| Failure::Backend(e.into()))?;
    let tokenizer = Tokenizer::open(opened.sections()).map_err(|error| Failure::Usage(error.to_string()))?;
    if let Some(tokens) = tokenizer.map(|t| t.vocabulary()).filter(|&tokens| tokens as usize != shape.vocabulary) {
        return Err(Failure::Usage(format!(
            "the tokenizer has {tokens} tokens, the model {}; convert it with its own --tokenizer",
            shape.vocabulary
        )));
    }
    let prompt = prompt(args, tokenizer.as_ref())?;
    if let Some(token) = prompt.iter().find(|&&token| token as usize >= shape.vocabulary) {
        return Err(Failure::Usage(format!(
            "the prompt holds the token {token}; the vocabulary of the model has {} tokens",
            shape.vocabulary
        )));
    }
    if prompt.len() > shape.context {
        return Err(Failure::Usage(format!(
            "the prompt has {} tokens, the context of the model has {}; shorten it or convert with a larger --context",
            prompt.len(),
            shape.context
        )));
    }
    if args.tokens == 0 {
        return Err(Failure::Usage("--tokens 0 generates nothing; give at least 1".to_owned()));
    }
    // The last token is generated, not processed.
    let room = shape.context - prompt.len() + 1;
    let count = args.tokens.min(room);
    let mut choice = Choice::new(args, model, tokenizer.as_ref(), &prompt)?;
    let mut text = tokenizer.map(|_| String::new());
    let mut words = tokenizer.map(|tokenizer| tokenizer.decoder(false));
    let mut say = |part: &str| {
        if let Some(text) = &mut text {
            text.push_str(part);
        }
        write(part);
    };
    let made = sequence::with_decoder(model, &args.backend, &mut |decoder| {
        generate(decoder, &prompt, count, &mut |row| choice.of(row), &mut |token| match &mut words {
            // Every id was chosen from the vocabulary, which is that of the tokenizer.
            Some(words) => {
                if words.next(token, &mut say).is_err() {
                    say("\u{fffd}");
                }
            }
            None => say(&format!("{token} ")),
        })
    })?;
    if let Some(words) = &mut words {
        words.finish(&mut say);
    }
    Ok(GenerateOutput {
        file: args.file.display().to_string(),
        backend: &args.backend,
        prompt_tokens_per_s: prompt.len() as f64 / made.first.max(1e-9),
        prompt,
        tokens_per_s: (made.tokens.len() > 1).then(|| (made.tokens.len() - 1) as f64 / made.rest.max(1e-9)),
        tokens: made.tokens,
        text,
        first_token_s: made.first,
        position: made.position,
        context: shape.context,
        state_bytes: shape.state_bytes,
        arena_bytes: shape.arena_bytes,
    })
}

/// The tokens to continue.
fn prompt(args: &Args, tokenizer: Option<&Tokenizer<'_>>) -> Result<Vec<u32>, Failure> {
    let Some(text) = &args.prompt else { return Ok(args.prompt_ids.clone()) };
    let Some(tokenizer) = tokenizer else {
        return Err(Failure::Usage(
            "the model has no tokenizer: give --prompt-ids, or convert it with --tokenizer".to_owned(),
        ));
    };
    // What belongs behind a whole text does not belong behind its beginning.
    let special = tokenizer.layout().after.bytes == 0;
    let ids = encode(tokenizer, text, special).map_err(|error| Failure::Usage(error.to_string()))?;
    if ids.is_empty() {
        return Err(Failure::Usage("the prompt has no tokens; give at least one character".to_owned()));
    }
    Ok(ids)
}

/// Chooses tokens from rows of logits, in integers.
struct Choice {
    sampler: Sampler,
    dtype: shiftformer::tensor::Dtype,
    zero_point: i32,
    units: u32,
    recent: Vec<u32>,
}

impl Choice {
    fn new(args: &Args, model: &ModelFile, tokenizer: Option<&Tokenizer<'_>>, prompt: &[u32]) -> Result<Self, Failure> {
        let fixed = |value: f64, what: &str| {
            let fixed = (value * f64::from(ONE)).round();
            let fits = value.is_finite() && (0.0..=f64::from(u32::MAX)).contains(&fixed);
            if fits { Ok(fixed as u32) } else { Err(Failure::Usage(format!("--{what} {value} is out of range"))) }
        };
        let settings = Sampling {
            temperature: fixed(args.temperature, "temperature")?,
            top_k: args.top_k,
            top_p: fixed(args.top_p, "top-p")?,
            repetition_penalty: fixed(args.repetition_penalty, "repetition-penalty")?,
        };
        let sampler = Sampler::new(settings, args.seed).map_err(|error| Failure::Usage(error.to_string()))?;
        let endpoint = model.outputs().first().ok_or(SequenceRunError::NoDecoder)?;
        let (scale, zero) = model.units(endpoint.tensor);
        let of_scale =
            (scale * std::f64::consts::LOG2_E * 2f64.powi(24)).round().clamp(1.0, f64::from(u32::MAX)) as u32;
        Ok(Self {
            sampler,
            dtype: model.output_dtype(0).ok_or(SequenceRunError::NoDecoder)?,
            zero_point: zero as i32,
            units: tokenizer.map_or(of_scale, |tokenizer| tokenizer.logit_units()),
            recent: prompt.to_vec(),
        })
    }

    fn of(&mut self, row: &[u8]) -> Result<u32, SequenceRunError> {
        let logits: Vec<i16> = integers(row, self.dtype).into_iter().map(|value| value as i16).collect();
        let mut scratch = vec![0; logits.len()];
        let logits = Logits::i16(&logits, self.zero_point);
        let token = self.sampler.next(logits, self.units, &self.recent, &mut scratch);
        let token = token.map_err(|error| SequenceRunError::Tokens(error.to_string()))?;
        self.recent.push(token);
        Ok(token)
    }
}

/// Processes `prompt` and generates `count` tokens, each chosen by `choose` from its logits and shown as soon as it is
/// known.
fn generate(
    decoder: &mut dyn Decoder,
    prompt: &[u32],
    count: usize,
    choose: &mut dyn FnMut(&[u8]) -> Result<u32, SequenceRunError>,
    show: &mut dyn FnMut(u32),
) -> Result<Generated, SequenceRunError> {
    let start = Instant::now();
    let mut last: Vec<u8> = Vec::new();
    let mut keep = |row: &[u8]| {
        last.clear();
        last.extend_from_slice(row);
    };
    decoder.feed(prompt, &mut keep)?;
    let mut tokens = vec![choose(&last)?];
    show(tokens[0]);
    let first = start.elapsed().as_secs_f64();
    let start = Instant::now();
    while tokens.len() < count {
        let token = tokens[tokens.len() - 1];
        let mut next = Err(SequenceRunError::Run(RunFault::Memory));
        decoder.feed(&[token], &mut |row| next = choose(row))?;
        let next = next?;
        show(next);
        tokens.push(next);
    }
    Ok(Generated { tokens, first, rest: start.elapsed().as_secs_f64(), position: decoder.position() })
}
