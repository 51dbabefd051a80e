"""What every method knows about faces: detection, landmarks, pose convention, regions, crop and paste back."""
