"""Products, convolutions, factorizations, solves and Fourier transforms. Leading axes are batches unless said otherwise."""

from __future__ import annotations

from jacloom_graph.ops.rows import choice, dtype, flag, integer, integers, pairs, real, row
from jacloom_graph.ops.table import Op

ROWS: tuple[Op, ...] = (
    row(
        "dot_general",
        2,
        "Product summed over the contracting axes, at the highest precision. Result axes: batch, rest of the first, rest of the second.",
        integers("lhs_contracting", ()),
        integers("rhs_contracting", ()),
        integers("lhs_batch", ()),
        integers("rhs_batch", ()),
        dtype("preferred_element_type", None),
    ),
    row(
        "conv_general_dilated",
        2,
        "Convolution. The specs list the axes (batch, feature, space..), (out feature, in feature, space..) and (batch, feature, space..).",
        integers("window_strides"),
        pairs("padding"),
        integers("lhs_dilation"),
        integers("rhs_dilation"),
        integers("lhs_spec"),
        integers("rhs_spec"),
        integers("out_spec"),
        integer("feature_group_count", 1),
        integer("batch_group_count", 1),
        dtype("preferred_element_type", None),
    ),
    row("cholesky", 1, "Lower Cholesky factor; reads the lower triangle."),
    row("cholesky_update", 2, "Cholesky factor of R'R + vv' from an upper factor R and a vector v."),
    row("lu", 1, "LU factors in one matrix, pivots (int32) and permutation (int32)."),
    row(
        "lu_pivots_to_permutation",
        1,
        "Permutation of `permutation_size` rows that the pivots stand for.",
        integer("permutation_size"),
        zero_derivative=True,
    ),
    row("qr", 1, "QR factors, and with `pivoting` the permutation.", flag("pivoting"), flag("full_matrices", True), flag("use_magma", None)),
    row(
        "svd",
        1,
        "Singular values, and with `compute_uv` the left and right singular vectors.",
        flag("full_matrices", True),
        flag("compute_uv", True),
        integers("subset_by_index", None),
        choice("algorithm", ("DEFAULT", "QR", "JACOBI", "POLAR"), None),
    ),
    row(
        "eigh",
        1,
        "Eigenvectors and ascending eigenvalues of a symmetric (Hermitian) matrix, of which one triangle is read.",
        flag("lower", True),
        flag("sort_eigenvalues", True),
        integers("subset_by_index", None),
        choice("algorithm", ("QR", "JACOBI", "QDWH"), None),
    ),
    row(
        "eig",
        1,
        "Eigenvalues and, as asked, left and right eigenvectors of a general matrix. CPU only.",
        flag("compute_left_eigenvectors", True),
        flag("compute_right_eigenvectors", True),
        flag("enable_eigvec_derivs"),
        choice("implementation", ("CUSOLVER", "MAGMA", "LAPACK"), None),
    ),
    row("schur", 1, "Schur form and, as asked, vectors. CPU only.", flag("compute_schur_vectors", True), flag("sort_eig_vals")),
    row("hessenberg", 1, "Hessenberg form and Householder factors. CPU only."),
    row("geqrf", 1, "QR factors as R over Householder reflectors, and the reflectors' factors."),
    row("ormqr", 3, "Product of operand 2 and the Q of reflectors and factors, on the `left` or right of it.", flag("left", True), flag("transpose")),
    row("householder_product", 2, "Orthogonal matrix from Householder reflectors and their factors."),
    row("tridiagonal", 1, "Reduction of a symmetric matrix to tridiagonal form.", flag("lower", True)),
    row("symmetric_product", 2, "alpha A A' + beta C.", real("alpha", 1.0), real("beta", 0.0)),
    row(
        "triangular_solve",
        2,
        "Solves op(a) x = b, or x op(a) = b if not `left_side`, for triangular a.",
        flag("left_side"),
        flag("lower"),
        flag("transpose_a"),
        flag("conjugate_a"),
        flag("unit_diagonal"),
    ),
    row(
        "tridiagonal_solve", 4, "Solves with the tridiagonal matrix of (lower, main, upper) diagonals and right-hand sides.", flag("perturb_singular")
    ),
    row(
        "fft",
        1,
        "Discrete Fourier transform over the last `fft_lengths` axes.",
        choice("fft_type", ("FFT", "IFFT", "RFFT", "IRFFT")),
        integers("fft_lengths"),
    ),
)
