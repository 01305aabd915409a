"""What all environments share: step order, geometry, batched dynamics, rendering."""
