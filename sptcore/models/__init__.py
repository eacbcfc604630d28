"""Networks: a hierarchical backbone whose blocks take a selector, an attention and a bypass as arguments."""
