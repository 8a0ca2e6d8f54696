//! What decides the token ids that an encoder makes of a row, as one number.
//!
//! Boundary: the encoder's parts as they are; that the program itself may change is [`super::cache`]'s business.

use xxhash_rust::xxh3::Xxh3;

use super::encode::Encoder;

impl Encoder {
    /// xxh3 of the tokenizer's files, the chat template's text and every setting: two encoders of one fingerprint make
    /// the same of every row.
    pub fn fingerprint(&self) -> u128 {
        let mut hash = Xxh3::new();
        let mut part = |bytes: &[u8]| {
            hash.update(&(bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        // As they are printed for debugging, so that a setting that is added is never forgotten here.
        part(format!("{:?}", self.config()).as_bytes());
        part(&self.tokenizer().map(|tokenizer| tokenizer.fingerprint().to_le_bytes()).unwrap_or_default());
        part(self.template().map(|template| template.source()).unwrap_or_default().as_bytes());
        hash.digest128()
    }
}
