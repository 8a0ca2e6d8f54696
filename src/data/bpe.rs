//! A byte-level BPE in Llama 3's form, trained on texts: the tokenizer of small models that start from nothing.
//!
//! Boundary: texts in, a tokenizer out; which files a folder needs beside `tokenizer.json` is the caller's business.

use tokenizers::decoders::DecoderWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::processors::sequence::Sequence as PostProcessors;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, SplitDelimiterBehavior, TokenizerImpl};

/// Llama 3's first token of every text.
pub const BEGIN_OF_TEXT: &str = "<|begin_of_text|>";
/// Its last token of a text that is no conversation.
pub const END_OF_TEXT: &str = "<|end_of_text|>";
/// Its last token of a message.
pub const END_OF_TURN: &str = "<|eot_id|>";
/// Its special tokens, as far as conversations need them.
pub const SPECIAL_TOKENS: [&str; 5] =
    [BEGIN_OF_TEXT, END_OF_TEXT, "<|start_header_id|>", "<|end_header_id|>", END_OF_TURN];

/// How Llama 3 cuts text before the byte-level BPE. It matters that line breaks form one piece with each other and never
/// with what follows (`\s*[\r\n]+`): the blank line after a header is then the same token whether an answer follows or
/// not, so a tokenised prompt is a prefix of the tokenised prompt and answer.
const PIECES: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// What is trained.
pub type BpeTokenizer =
    TokenizerImpl<BPE, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// Trains a byte-level BPE of at most `max_vocabulary` tokens on texts, and puts Llama 3's pre-tokenizer, post-processor and
/// special tokens around it. As in Llama 3 the special tokens come after the ordinary ones, and beyond the bound. The same texts
/// give the same tokenizer.
///
/// # Errors
/// What the tokenizers library says, which has no reason to.
pub fn train<'a>(
    texts: impl Iterator<Item = &'a str> + Send,
    max_vocabulary: usize,
) -> tokenizers::Result<BpeTokenizer> {
    let model = BPE::builder().ignore_merges(true).build()?;
    let mut tokenizer = BpeTokenizer::new(model);
    let pieces = Split::new(SplitPattern::Regex(PIECES.into()), SplitDelimiterBehavior::Isolated, false)?;
    let steps = vec![pieces.into(), ByteLevel::new(false, true, false).into()];
    tokenizer
        .with_pre_tokenizer(Some(PreTokenizers::new(steps)))
        .with_decoder(Some(ByteLevel::new(true, true, true)));
    let mut trainer = BpeTrainer::builder()
        .vocab_size(max_vocabulary)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    tokenizer.train(&mut trainer, texts)?;
    tokenizer.add_special_tokens(SPECIAL_TOKENS.map(|token| AddedToken::from(token, true)))?;
    let begin_id = tokenizer.token_to_id(BEGIN_OF_TEXT).ok_or("a special token was not added")?;
    let begin = TemplateProcessing::builder()
        .try_single(format!("{BEGIN_OF_TEXT} $A"))
        .and_then(|template| template.try_pair(format!("{BEGIN_OF_TEXT}:0 $A:0 {BEGIN_OF_TEXT}:1 $B:1")))?
        .special_tokens(vec![(BEGIN_OF_TEXT, begin_id)])
        .build()?;
    let steps = vec![ByteLevel::new(true, false, true).into(), begin.into()];
    tokenizer.with_post_processor(Some(PostProcessors::new(steps)));
    Ok(tokenizer)
}
