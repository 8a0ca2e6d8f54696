//! The Porter stemmer (Porter, "An algorithm for suffix stripping", Program 14.3, 1980) with the departures that NLTK makes
//! by default, since rouge_score stems with it: a list of irregular words, `ie` kept in words of four letters, y to i after
//! any consonant, and three more suffixes.
//!
//! Boundary: lower-case ASCII letters and digits; a digit counts as a consonant.

/// Words that the rules would cripple, with their stems.
const IRREGULAR: [(&str, &str); 16] = [
    ("sky", "sky"),
    ("skies", "sky"),
    ("dying", "die"),
    ("lying", "lie"),
    ("tying", "tie"),
    ("news", "news"),
    ("innings", "inning"),
    ("inning", "inning"),
    ("outings", "outing"),
    ("outing", "outing"),
    ("cannings", "canning"),
    ("canning", "canning"),
    ("howe", "howe"),
    ("proceed", "proceed"),
    ("exceed", "exceed"),
    ("succeed", "succeed"),
];

/// The stem of a word.
pub fn stem(word: &str) -> String {
    if let Some((_, stem)) = IRREGULAR.iter().find(|(irregular, _)| *irregular == word) {
        return (*stem).to_owned();
    }
    if word.len() <= 2 {
        return word.to_owned();
    }
    let word = plural(word);
    let word = past_and_progressive(&word);
    let word = final_y(&word);
    let word = double_suffix(&word);
    let word = replaced(&word, &LONG, |stem| measure(stem) > 0);
    let word = single_suffix(&word);
    final_l(&final_e(&word))
}

/// Which letters are consonants: all but a, e, i, o, u and a y after a consonant.
fn consonants(word: &str) -> Vec<bool> {
    let mut flags: Vec<bool> = Vec::with_capacity(word.len());
    for letter in word.bytes() {
        flags.push(match letter {
            b'a' | b'e' | b'i' | b'o' | b'u' => false,
            b'y' => flags.last().is_none_or(|&consonant| !consonant),
            _ => true,
        });
    }
    flags
}

/// m: how often a consonant follows a vowel.
fn measure(stem: &str) -> usize {
    consonants(stem).windows(2).filter(|pair| !pair[0] && pair[1]).count()
}

fn has_vowel(stem: &str) -> bool {
    consonants(stem).contains(&false)
}

fn ends_in_consonant(stem: &str) -> bool {
    consonants(stem).last() == Some(&true)
}

/// *d
fn ends_in_double_consonant(word: &str) -> bool {
    let letters = word.as_bytes();
    letters.len() >= 2 && letters[letters.len() - 1] == letters[letters.len() - 2] && ends_in_consonant(word)
}

/// *o: consonant, vowel, consonant other than w, x, y; or a word of vowel and consonant.
fn ends_in_short_syllable(word: &str) -> bool {
    let flags = consonants(word);
    match flags[..] {
        [.., true, false, true] => !word.ends_with(['w', 'x', 'y']),
        [false, true] => true,
        _ => false,
    }
}

/// Step 1a.
fn plural(word: &str) -> String {
    match word.strip_suffix('s') {
        _ if word.ends_with("ies") && word.len() == 4 => word[..3].to_owned(),
        _ if word.ends_with("sses") || word.ends_with("ies") => word[..word.len() - 2].to_owned(),
        Some(_) if word.ends_with("ss") => word.to_owned(),
        Some(singular) => singular.to_owned(),
        None => word.to_owned(),
    }
}

/// Step 1b.
fn past_and_progressive(word: &str) -> String {
    if let Some(stem) = word.strip_suffix("ied") {
        return stem.to_owned() + if word.len() == 4 { "ie" } else { "i" };
    }
    if let Some(stem) = word.strip_suffix("eed") {
        return if measure(stem) > 0 { stem.to_owned() + "ee" } else { word.to_owned() };
    }
    let stem =
        ["ed", "ing"].iter().find_map(|suffix| word.strip_suffix(suffix).filter(|stem| has_vowel(stem)));
    let Some(stem) = stem else { return word.to_owned() };
    if ["at", "bl", "iz"].iter().any(|end| stem.ends_with(end)) {
        return stem.to_owned() + "e";
    }
    if ends_in_double_consonant(stem) {
        let kept = if stem.ends_with(['l', 's', 'z']) { stem } else { &stem[..stem.len() - 1] };
        return kept.to_owned();
    }
    if measure(stem) == 1 && ends_in_short_syllable(stem) { stem.to_owned() + "e" } else { stem.to_owned() }
}

/// Step 1c.
fn final_y(word: &str) -> String {
    match word.strip_suffix('y') {
        Some(stem) if stem.len() > 1 && ends_in_consonant(stem) => stem.to_owned() + "i",
        _ => word.to_owned(),
    }
}

const DOUBLE: [(&str, &str); 21] = [
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("bli", "ble"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
    ("fulli", "ful"),
];

/// Step 2.
fn double_suffix(word: &str) -> String {
    if let Some(stem) = word.strip_suffix("alli").filter(|stem| measure(stem) > 0) {
        return double_suffix(&(stem.to_owned() + "al"));
    }
    if !DOUBLE.iter().any(|(suffix, _)| word.ends_with(suffix))
        && let Some(stem) = word.strip_suffix("logi")
    {
        // The l counts in the stem here.
        return if measure(&word[..word.len() - 3]) > 0 { stem.to_owned() + "log" } else { word.to_owned() };
    }
    replaced(word, &DOUBLE, |stem| measure(stem) > 0)
}

/// Step 3's.
const LONG: [(&str, &str); 7] = [
    ("icate", "ic"),
    ("ative", ""),
    ("alize", "al"),
    ("iciti", "ic"),
    ("ical", "ic"),
    ("ful", ""),
    ("ness", ""),
];

const SINGLE: [(&str, &str); 19] = [
    ("al", ""),
    ("ance", ""),
    ("ence", ""),
    ("er", ""),
    ("ic", ""),
    ("able", ""),
    ("ible", ""),
    ("ant", ""),
    ("ement", ""),
    ("ment", ""),
    ("ent", ""),
    ("ion", ""),
    ("ou", ""),
    ("ism", ""),
    ("ate", ""),
    ("iti", ""),
    ("ous", ""),
    ("ive", ""),
    ("ize", ""),
];

/// Step 4.
fn single_suffix(word: &str) -> String {
    let ion = word.ends_with("ion");
    replaced(word, &SINGLE, |stem| measure(stem) > 1 && (!ion || stem.ends_with(['s', 't'])))
}

/// Step 5a.
fn final_e(word: &str) -> String {
    match word.strip_suffix('e') {
        Some(stem) if measure(stem) > 1 || measure(stem) == 1 && !ends_in_short_syllable(stem) => {
            stem.to_owned()
        }
        _ => word.to_owned(),
    }
}

/// Step 5b.
fn final_l(word: &str) -> String {
    let shorter = &word[..word.len().saturating_sub(1)];
    if word.ends_with("ll") && measure(shorter) > 1 { shorter.to_owned() } else { word.to_owned() }
}

/// The first rule whose suffix the word has decides, whether its condition holds or not.
fn replaced(word: &str, rules: &[(&str, &str)], condition: impl Fn(&str) -> bool) -> String {
    let rule = rules.iter().find_map(|(suffix, with)| Some((word.strip_suffix(suffix)?, *with)));
    match rule {
        Some((stem, with)) if condition(stem) => stem.to_owned() + with,
        _ => word.to_owned(),
    }
}
