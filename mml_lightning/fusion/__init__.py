"""How the outputs of the peers become one, the fused output, which is scored like a peer. Torch only."""
