# Certificates: the program of docs/how-to/certificates.md, to be run in a copy of examples/files.
set -e
onnxpool validate network.onnx --certificate      # network.certificate.json; ONNXPOOL_SIGNING_KEY signs it
onnxpool verify network.onnx                      # offline: model, weights, answers, libraries, signature; who judged
onnxpool verify network.onnx --scale-bounds 0.9   # the stored results, judged by nine tenths of each bound

openssl genpkey -algorithm ed25519 -out key.pem && openssl pkey -in key.pem -pubout -out key.pub.pem
onnxpool validate network.onnx --certificate --sign key.pem       # pip install 'onnxpool[sign]'
onnxpool verify network.onnx --public-key key.pub.pem             # for anybody, without a secret
