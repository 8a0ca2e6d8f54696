//! English stop words: words that make no difference, as BMC's released code has them.
//!
//! The list is NLTK's `stopwords.words('english')` as it was in 2024 (179 words; later versions have more), which goes back to
//! Porter's; the released code adds each word of two letters or more with a capital. Of these it takes the words that the
//! tokenizer makes one token of.
//!
//! Boundary: words to token ids.

use std::collections::HashSet;
use std::fmt;

use crate::data::Tokenizer;

/// Which tokens count as stop words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StopWords {
    /// None.
    None,
    /// The tokens of the words as they are, as in the released code. Tokenizers like Llama 2's write a space before every
    /// word; for those like Llama 3's, these are only the words that no space precedes.
    #[default]
    Released,
    /// These, and the tokens of the words with a space before them.
    Spaced,
}

impl fmt::Display for StopWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            StopWords::None => "none",
            StopWords::Released => "released",
            StopWords::Spaced => "spaced",
        })
    }
}

impl StopWords {
    /// Their token ids.
    ///
    /// # Errors
    /// The tokenizer's message.
    pub fn ids(self, tokenizer: &Tokenizer) -> Result<HashSet<u32>, String> {
        let prefixes: &[&str] = match self {
            StopWords::None => &[],
            StopWords::Released => &[""],
            StopWords::Spaced => &["", " "],
        };
        let mut found = HashSet::new();
        for word in WORDS {
            let capital = (word.len() > 1).then(|| capitalised(word));
            for form in std::iter::once(word.to_owned()).chain(capital) {
                for prefix in prefixes {
                    if let [id] = tokenizer.encode(&format!("{prefix}{form}"))?[..] {
                        found.insert(id);
                    }
                }
            }
        }
        Ok(found)
    }
}

/// With its first letter as a capital; the words are ASCII in small letters.
fn capitalised(word: &str) -> String {
    let (first, rest) = word.split_at(1);
    first.to_ascii_uppercase() + rest
}

/// The words.
#[rustfmt::skip]
pub const WORDS: [&str; 179] = [
    "i", "me", "my", "myself", "we", "our", "ours", "ourselves", "you", "you're", "you've", "you'll", "you'd", "your", "yours",
    "yourself", "yourselves", "he", "him", "his", "himself", "she", "she's", "her", "hers", "herself", "it", "it's", "its",
    "itself", "they", "them", "their", "theirs", "themselves", "what", "which", "who", "whom", "this", "that", "that'll",
    "these", "those", "am", "is", "are", "was", "were", "be", "been", "being", "have", "has", "had", "having", "do", "does",
    "did", "doing", "a", "an", "the", "and", "but", "if", "or", "because", "as", "until", "while", "of", "at", "by", "for",
    "with", "about", "against", "between", "into", "through", "during", "before", "after", "above", "below", "to", "from",
    "up", "down", "in", "out", "on", "off", "over", "under", "again", "further", "then", "once", "here", "there", "when",
    "where", "why", "how", "all", "any", "both", "each", "few", "more", "most", "other", "some", "such", "no", "nor", "not",
    "only", "own", "same", "so", "than", "too", "very", "s", "t", "can", "will", "just", "don", "don't", "should",
    "should've", "now", "d", "ll", "m", "o", "re", "ve", "y", "ain", "aren", "aren't", "couldn", "couldn't", "didn",
    "didn't", "doesn", "doesn't", "hadn", "hadn't", "hasn", "hasn't", "haven", "haven't", "isn", "isn't", "ma", "mightn",
    "mightn't", "mustn", "mustn't", "needn", "needn't", "shan", "shan't", "shouldn", "shouldn't", "wasn", "wasn't", "weren",
    "weren't", "won", "won't", "wouldn", "wouldn't",
];
