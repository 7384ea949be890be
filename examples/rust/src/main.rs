//! Runs an exported model, natively if the library is given: pool MODEL.onnx [LIBRARY]
use ndarray::Array4;
use ort::{inputs, session::Session, value::TensorRef};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1); // MODEL.onnx [LIBRARY]
    let model = arguments.next().expect("usage: pool MODEL.onnx [LIBRARY]");
    let mut builder = Session::builder()?;
    if let Some(library) = arguments.next() {
        builder = builder.with_operator_library(library)?; // the only line that is ours
    }
    let mut session = builder.commit_from_file(model)?;

    let image = Array4::<f32>::from_elem((1, 3, 64, 64), 0.5);
    let outputs = session.run(inputs!["input" => TensorRef::from_array_view(&image)?])?;
    let (shape, scores) = outputs["linear"].try_extract_tensor::<f32>()?;
    println!("{shape:?} {scores:?}");
    Ok(())
}
