"""The text-to-video endpoint on Ray Serve: PromptEncoder -> Denoiser -> FrameDecoder behind the videos API."""
