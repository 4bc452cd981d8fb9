// Functions that share weights which are not in the module: one of any length, one in two sizes, one with a state.
util.global private @table = #stream.parameter.named<"model"::"table"> : tensor<8x8xf32>

// Each row of a product with the table, where the mask is not 0.
func.func @encode(%x: tensor<1x?x8xf32>, %mask: tensor<1x?xf32>) -> tensor<1x?x8xf32> {
  %zero = arith.constant 0.0 : f32
  %one = arith.constant 1 : index
  %w = util.global.load @table : tensor<8x8xf32>
  %t = tensor.dim %x, %one : tensor<1x?x8xf32>
  %e = tensor.empty(%t) : tensor<1x?x8xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<1x?x8xf32>) -> tensor<1x?x8xf32>
  %y = linalg.generic {
    indexing_maps = [affine_map<(b, t, o, i) -> (b, t, i)>, affine_map<(b, t, o, i) -> (b, t)>,
                     affine_map<(b, t, o, i) -> (i, o)>, affine_map<(b, t, o, i) -> (b, t, o)>],
    iterator_types = ["parallel", "parallel", "parallel", "reduction"]
  } ins(%x, %mask, %w : tensor<1x?x8xf32>, tensor<1x?xf32>, tensor<8x8xf32>) outs(%f : tensor<1x?x8xf32>) {
  ^bb0(%a: f32, %m: f32, %b: f32, %sum: f32):
    %masked = arith.mulf %a, %m : f32
    %p = arith.mulf %masked, %b : f32
    %n = arith.addf %sum, %p : f32
    linalg.yield %n : f32
  } -> tensor<1x?x8xf32>
  return %y : tensor<1x?x8xf32>
}

func.func @main_4(%x: tensor<4x8xf32>) -> tensor<4x8xf32> {
  %zero = arith.constant 0.0 : f32
  %w = util.global.load @table : tensor<8x8xf32>
  %e = tensor.empty() : tensor<4x8xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<4x8xf32>) -> tensor<4x8xf32>
  %y = linalg.matmul ins(%x, %w : tensor<4x8xf32>, tensor<8x8xf32>) outs(%f : tensor<4x8xf32>) -> tensor<4x8xf32>
  return %y : tensor<4x8xf32>
}

func.func @main_16(%x: tensor<16x8xf32>) -> tensor<16x8xf32> {
  %zero = arith.constant 0.0 : f32
  %w = util.global.load @table : tensor<8x8xf32>
  %e = tensor.empty() : tensor<16x8xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<16x8xf32>) -> tensor<16x8xf32>
  %y = linalg.matmul ins(%x, %w : tensor<16x8xf32>, tensor<8x8xf32>) outs(%f : tensor<16x8xf32>) -> tensor<16x8xf32>
  return %y : tensor<16x8xf32>
}

// The next state of a machine that reads tokens, what it says of the next one, and how long it has read.
func.func @step(%token: tensor<i32>, %state: tensor<8xf32>, %read: tensor<1xi8>) -> (tensor<8xf32>, tensor<8xf32>, tensor<1xi8>) {
  %half = arith.constant 0.5 : f32
  %more = arith.constant dense<1> : tensor<1xi8>
  %w = util.global.load @table : tensor<8x8xf32>
  %e = tensor.empty() : tensor<8xf32>
  %next = linalg.generic {
    indexing_maps = [affine_map<(i) -> (i)>, affine_map<(i) -> ()>, affine_map<(i) -> (i)>], iterator_types = ["parallel"]
  } ins(%state, %token : tensor<8xf32>, tensor<i32>) outs(%e : tensor<8xf32>) {
  ^bb0(%s: f32, %number: i32, %out: f32):
    %row = arith.index_cast %number : i32 to index
    %column = linalg.index 0 : index
    %v = tensor.extract %w[%row, %column] : tensor<8x8xf32>
    %old = arith.mulf %s, %half : f32
    %new = arith.addf %old, %v : f32
    linalg.yield %new : f32
  } -> tensor<8xf32>
  %f = tensor.empty() : tensor<8xf32>
  %logits = linalg.generic {
    indexing_maps = [affine_map<(i) -> (i)>, affine_map<(i) -> (i)>], iterator_types = ["parallel"]
  } ins(%next : tensor<8xf32>) outs(%f : tensor<8xf32>) {
  ^bb0(%s: f32, %out: f32):
    %n = math.sin %s : f32
    linalg.yield %n : f32
  } -> tensor<8xf32>
  %sum = arith.addi %read, %more : tensor<1xi8>
  return %logits, %next, %sum : tensor<8xf32>, tensor<8xf32>, tensor<1xi8>
}
