// Runs an exported model, natively if the library is given: dotnet run MODEL.onnx [LIBRARY]
using Microsoft.ML.OnnxRuntime;

using var options = new SessionOptions();
if (args.Length > 1) options.RegisterCustomOpLibraryV2(args[1], out _); // the only line that is ours
using var session = new InferenceSession(args[0], options);

var pixels = new float[1 * 3 * 64 * 64];
Array.Fill(pixels, 0.5f);
using var image = OrtValue.CreateTensorValueFromMemory(pixels, new long[] { 1, 3, 64, 64 });
var inputs = new Dictionary<string, OrtValue> { { "input", image } };
using var results = session.Run(new RunOptions(), inputs, session.OutputNames);
Console.WriteLine(string.Join(" ", results[0].GetTensorDataAsSpan<float>().ToArray()));
