//! The header of a safetensors file, against the reference implementation.

#![no_main]

use std::path::Path;

use asft::checkpoint::tensor_file::read_header;
use libfuzzer_sys::fuzz_target;
use safetensors::SafeTensors;

fuzz_target!(|bytes: &[u8]| {
    let ours = read_header(bytes, Path::new("model.safetensors"));
    let theirs = SafeTensors::deserialize(bytes);
    match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => {
            assert_eq!(ours.len(), theirs.len());
            for (name, view) in theirs.iter() {
                assert_eq!(ours[name].shape, view.shape());
                assert_eq!(&bytes[ours[name].bytes.clone()], view.data());
            }
        }
        (Ok(_), Err(error)) => panic!("accepted, and the reference says: {error}"),
        (Err(error), Ok(_)) => {
            // Where the two differ on purpose: a name given twice, and white space before the brace.
            let known = ["is described twice", "does not start with '{'"];
            let message = error.to_string();
            assert!(known.iter().any(|known| message.contains(known)), "the reference accepts it: {message}");
        }
        (Err(error), Err(_)) => assert!(error.to_string().starts_with("model.safetensors: "), "{error}"),
    }
});
