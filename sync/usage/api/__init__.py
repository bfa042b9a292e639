"""The HTTP operations on usage. It may import the declarations of billing's operations."""
