"""What the model beside it imports."""

FACTOR = 3
